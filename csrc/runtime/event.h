#pragma once

#include <memory>
#include <mutex>

#include "runtime/stream.h"

namespace attnedit {

// A mark in a stream. Before its first record it counts as done.
class Event {
 public:
  Event() = default;
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(Stream& stream);
  bool query() const;
  // Waits for the last record, and raises what a task before it raised.
  void synchronize();
  void wait() const;  // the same, raising nothing of the tasks
  // Milliseconds from since to this event; both must be done.
  double elapsed_ms(const Event& since) const;

 private:
  friend class Stream;
  mutable std::mutex mutex_;  // of the three below
  attnedit_event* handle_ = nullptr;
  std::shared_ptr<StreamState> state_;
  uint64_t number_ = 0;
  int device_ = -1;
};

}  // namespace attnedit
