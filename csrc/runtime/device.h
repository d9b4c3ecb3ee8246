#pragma once

#include <cstddef>

namespace attnedit {

int device_count();
// Per thread, 0 at first.
int current_device();
void set_current_device(int device);

// Raises std::invalid_argument unless there is such a device.
void check_device(const char* op, int device);
const char* device_name(int device);
bool is_simulated();

struct MemoryInfo {
  size_t available, total;
};
// What the device's memory has left, whoever uses it.
MemoryInfo memory_info(int device);

// A forked child has the parent's queues but not its threads: whatever it waited for would never come.
// Starts to watch for forks; called before the first stream is made.
void watch_for_fork();
bool forked();
// Raises std::runtime_error in a child that was forked while watched.
void refuse_after_fork(const char* op);

}  // namespace attnedit
