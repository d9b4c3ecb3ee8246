#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "runtime/backend.h"
#include "runtime/device.h"
#include "runtime/task.h"

namespace attnedit {

class Event;

// How far a stream has come and what went wrong on it. Outlives the stream: events and released memory still ask.
class StreamState {
 public:
  // Tasks are numbered from 1 in the order of their launch.
  uint64_t launched() const { return launched_.load(std::memory_order_acquire); }
  bool passed(uint64_t number) const { return completed_.load(std::memory_order_acquire) >= number; }
  // Raises, once, what a task up to this number raised. Everything launched until now stays skipped.
  void raise(uint64_t number);

 private:
  friend class Stream;
  bool skips(uint64_t number);
  void fail(uint64_t number, std::exception_ptr error);

  std::atomic<uint64_t> launched_{0}, completed_{0};
  std::atomic<bool> troubled_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
  uint64_t failed_ = 0, skipped_until_ = 0;
};

// An ordered queue of tasks on one device. After a task that raised, later ones are skipped until the error has
// surfaced: at the next synchronize, as the same type of exception, with the task's name in front.
// With ATTNEDIT_LAUNCH_BLOCKING=1 in the environment every launch waits for its task and raises itself.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(int device = current_device());
  ~Stream();  // waits for its tasks
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // name must live on, as a literal does. The task must not touch Python, nor launch or wait for another.
  void launch(const char* name, Task task);
  void synchronize();
  bool query() const;
  // Later tasks of this stream wait for what event marks now; the caller does not.
  void wait(const Event& event);

  int device() const { return device_; }
  const std::shared_ptr<StreamState>& state() const { return state_; }

 private:
  friend class Event;
  struct Launch;
  static void run(void* launch);

  static inline std::atomic<uint64_t> made_{0};
  const int device_;
  const uint64_t number_ = made_++;  // of all streams of the process, for a profile
  const std::shared_ptr<StreamState> state_ = std::make_shared<StreamState>();
  std::mutex order_;  // numbers and queue places are given out together
  attnedit_stream* handle_ = nullptr;
};

// Per thread and device; made on first use, unless set.
Stream& current_stream();
void set_current_stream(std::shared_ptr<Stream> stream);

// Waits for all streams of the current device, then raises the first error among them.
void synchronize_device();
// Waits until all streams of all devices have passed the present point; false if that failed. Errors of tasks stay to
// surface at a synchronize. In a forked child nothing is queued.
bool wait_for_all_streams() noexcept;

}  // namespace attnedit
