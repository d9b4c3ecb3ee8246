#include "runtime/device.h"

#include <pthread.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>

#include "runtime/backend.h"
#include "runtime/check.h"

namespace attnedit {
namespace {
thread_local int current = 0;
std::atomic<bool> is_forked{false};
}  // namespace

int device_count() {
  static const int devices = [] {
    int32_t count = 0;
    check_backend(backend().device_count(&count), "device_count");
    return count;
  }();
  return devices;
}

int current_device() { return current; }

void set_current_device(int device) {
  check_device("set_device", device);
  current = device;
}

void check_device(const char* op, int device) {
  ATTNEDIT_CHECK(device >= 0 && device < device_count(), op, "device must be from 0 to ", device_count() - 1, ", got ",
                 device);
}

const char* device_name(int device) {
  check_device("device_name", device);
  return backend().device_name(device);
}

bool is_simulated() { return backend().is_simulated; }

MemoryInfo memory_info(int device) {
  check_device("memory_info", device);
  MemoryInfo info{};
  check_backend(backend().memory_info(device, &info.available, &info.total), "memory_info");
  return info;
}

void watch_for_fork() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { is_forked = true; }); });
}

bool forked() { return is_forked.load(std::memory_order_relaxed); }

void refuse_after_fork(const char* op) {
  if (forked())
    throw std::runtime_error("[" + std::string(op) +
                             "] must not run in a process forked from one that has used a stream; start it with "
                             "multiprocessing's spawn or forkserver");
}

}  // namespace attnedit
