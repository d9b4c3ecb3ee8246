#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/backend.h"

// The streams and events of the embedded backend, for backend_cpu.cc.
namespace attnedit::cpu {

using Clock = std::chrono::steady_clock;

inline constexpr size_t kQueueLength = 1024;
// Launches come back to back, and waking a sleeping thread costs more than most small kernels.
inline constexpr auto kSpin = std::chrono::microseconds(30);

// The state of an event, shared with the queue entries that name it, so that it may be destroyed before they run.
struct Mark {
  std::mutex mutex;
  std::condition_variable reached;
  uint64_t recorded = 0, done = 0;
  Clock::time_point time;

  uint64_t last_recorded() {
    std::lock_guard lock(mutex);
    return recorded;
  }
  void reach(uint64_t record) {
    std::lock_guard lock(mutex);
    if (record > done) {
      done = record;
      time = Clock::now();
    }
    reached.notify_all();
  }
  void wait(uint64_t record) {
    std::unique_lock lock(mutex);
    reached.wait(lock, [&] { return done >= record; });
  }
};

// One place in a stream: a task, or (with mark) an event to reach or to wait for.
struct Entry {
  void (*run)(void*) = nullptr;
  void* argument = nullptr;
  std::shared_ptr<Mark> mark;
  uint64_t record = 0;
  bool waits = false;

  bool reaches() const { return mark && !waits; }
};

}  // namespace attnedit::cpu

struct attnedit_event {
  std::shared_ptr<attnedit::cpu::Mark> mark = std::make_shared<attnedit::cpu::Mark>();
};

// One thread and a bounded queue. Many streams give many orders but not more compute: a task holds its device's cores.
struct attnedit_stream {
  using Entry = attnedit::cpu::Entry;
  using Clock = attnedit::cpu::Clock;

  explicit attnedit_stream(std::mutex& device_cores) : cores_(device_cores) {
    if (!attnedit::launch_blocking()) thread_ = std::thread([this] { work(); });
  }
  ~attnedit_stream() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    pushed_one_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  void push(Entry entry) {
    if (attnedit::launch_blocking()) {
      run(entry);
      if (entry.reaches()) entry.mark->reach(entry.record);
      return;
    }
    {
      std::unique_lock lock(mutex_);
      while (pushed_ - finished_ >= attnedit::cpu::kQueueLength) wait_until(finished_ + 1, lock);
      queue_[pushed_ % attnedit::cpu::kQueueLength] = std::move(entry);
      ++pushed_;
    }
    pushed_one_.notify_one();
  }
  void synchronize() {
    std::unique_lock lock(mutex_);
    wait_until(pushed_, lock);
  }
  bool idle() {
    std::lock_guard lock(mutex_);
    return finished_ == pushed_;
  }

 private:
  static constexpr uint64_t kNever = UINT64_MAX;

  // A waiter is woken when its own task has ended: to wake it after each would cost a core that a kernel works on.
  void wait_until(uint64_t target, std::unique_lock<std::mutex>& lock) {
    while (finished_ < target) {
      wanted_ = std::min(wanted_, target);
      finished_one_.wait(lock);
    }
  }
  void run(const Entry& entry) {
    if (!entry.mark) {
      std::lock_guard lease(cores_);
      entry.run(entry.argument);
    } else if (entry.waits) {
      entry.mark->wait(entry.record);
    }
  }
  void work() {
    for (uint64_t next = 0;; ++next) {
      spin_for(next);
      Entry entry;
      {
        std::unique_lock lock(mutex_);
        pushed_one_.wait(lock, [&] { return pushed_ > next || stopping_; });
        if (pushed_ == next) return;
        entry = std::move(queue_[next % attnedit::cpu::kQueueLength]);
      }
      run(entry);
      {
        std::lock_guard lock(mutex_);  // whoever sees the event done finds the stream idle too
        if (entry.reaches()) entry.mark->reach(entry.record);
        ++finished_;
        if (finished_ < wanted_) continue;
        wanted_ = kNever;
      }
      finished_one_.notify_all();
    }
  }
  void spin_for(uint64_t next) const {
    static const bool alone = std::thread::hardware_concurrency() < 2;
    if (alone) return;
    for (const auto end = Clock::now() + attnedit::cpu::kSpin; pushed_.load(std::memory_order_relaxed) <= next;) {
      for (int i = 0; i < 32; ++i) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      if (Clock::now() >= end) return;
    }
  }

  std::mutex& cores_;
  std::mutex mutex_;
  std::condition_variable pushed_one_, finished_one_;
  std::array<Entry, attnedit::cpu::kQueueLength> queue_;
  std::atomic<uint64_t> pushed_{0};  // written under the mutex; atomic only for the spinning reader
  uint64_t finished_ = 0, wanted_ = kNever;
  bool stopping_ = false;
  std::thread thread_;
};
