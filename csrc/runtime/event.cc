#include "runtime/event.h"

#include <stdexcept>

#include "runtime/check.h"

namespace attnedit {

Event::~Event() {
  if (handle_ && !forked()) backend().event_destroy(handle_);
}

void Event::record(Stream& stream) {
  refuse_after_fork("event");
  std::scoped_lock lock(stream.order_, mutex_);
  ATTNEDIT_CHECK(!handle_ || device_ == stream.device(), "event", "stream must be on device ", device_,
                 " as at the first record, got one on device ", stream.device());
  if (!handle_) check_backend(backend().event_create(device_ = stream.device(), &handle_), "event");
  check_backend(backend().event_record(handle_, stream.handle_), "event");
  state_ = stream.state();
  number_ = state_->launched();
}

bool Event::query() const {
  refuse_after_fork("event");
  std::lock_guard lock(mutex_);
  return !handle_ || backend().event_query(handle_);
}

void Event::wait() const {
  refuse_after_fork("event");
  attnedit_event* handle;
  {
    std::lock_guard lock(mutex_);
    handle = handle_;
  }
  if (handle) check_backend(backend().event_synchronize(handle), "event");
}

void Event::synchronize() {
  wait();
  std::unique_lock lock(mutex_);
  const auto state = state_;
  const uint64_t number = number_;
  lock.unlock();
  if (state) state->raise(number);
}

double Event::elapsed_ms(const Event& since) const {
  refuse_after_fork("event");
  std::scoped_lock lock(mutex_, since.mutex_);
  if (!handle_ || !since.handle_) throw std::runtime_error("[event] both events must have been recorded");
  double milliseconds = 0;
  check_backend(backend().event_elapsed_ms(since.handle_, handle_, &milliseconds), "event");
  return milliseconds;
}

}  // namespace attnedit
