#include "runtime/stream.h"

#include <algorithm>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/check.h"
#include "runtime/event.h"
#include "runtime/memory.h"
#include "runtime/profile.h"
#include "runtime/rehearsal.h"

namespace attnedit {
namespace {

std::string named(const char* name, const std::exception& error) {
  const std::string front = "[" + std::string(name) + "] ", text = error.what();
  return text.rfind(front, 0) == 0 ? text : front + text;
}

// The exception in flight as the same type with the task's name in front, for the types that Python tells apart.
std::exception_ptr error_of(const char* name) {
  try {
    throw;
  } catch (const std::bad_alloc& e) {
    return std::make_exception_ptr(OutOfMemory(named(name, e)));
  } catch (const std::invalid_argument& e) {
    return std::make_exception_ptr(std::invalid_argument(named(name, e)));
  } catch (const std::out_of_range& e) {
    return std::make_exception_ptr(std::out_of_range(named(name, e)));
  } catch (const std::domain_error& e) {
    return std::make_exception_ptr(std::domain_error(named(name, e)));
  } catch (const std::length_error& e) {
    return std::make_exception_ptr(std::length_error(named(name, e)));
  } catch (const std::overflow_error& e) {
    return std::make_exception_ptr(std::overflow_error(named(name, e)));
  } catch (const std::range_error& e) {
    return std::make_exception_ptr(std::range_error(named(name, e)));
  } catch (const std::exception& e) {
    return std::make_exception_ptr(std::runtime_error(named(name, e)));
  } catch (...) {
    return std::make_exception_ptr(std::runtime_error("[" + std::string(name) + "] failed"));
  }
}

// Every stream of the process, so that a device can be waited for. Leaked: streams end after static objects do.
struct Register {
  std::mutex mutex;
  std::vector<Stream*> streams;
};
Register& all() {
  static Register& made = *new Register;
  return made;
}

struct Slot {
  std::shared_ptr<Stream> own, current;
};
thread_local std::vector<Slot> slots;  // by device

Slot& slot(int device) {
  if (slots.size() <= static_cast<size_t>(device)) slots.resize(device + 1);
  return slots[device];
}

}  // namespace

void StreamState::raise(uint64_t number) {
  if (!troubled_.load(std::memory_order_acquire)) return;
  std::unique_lock lock(mutex_);
  if (!error_ || failed_ > number) return;
  const std::exception_ptr error = std::move(error_);
  error_ = nullptr;
  skipped_until_ = launched();
  lock.unlock();
  std::rethrow_exception(error);
}

bool StreamState::skips(uint64_t number) {
  if (!troubled_.load(std::memory_order_acquire)) return false;
  std::lock_guard lock(mutex_);
  if (error_ || number <= skipped_until_) return true;
  troubled_ = false;
  return false;
}

void StreamState::fail(uint64_t number, std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  error_ = std::move(error);
  failed_ = number;
  troubled_ = true;
}

struct Stream::Launch {
  StreamState* state;
  const char* name;
  Task task;
  uint64_t number;
  int device;
  uint64_t stream;
};

Stream::Stream(int device) : device_(device) {
  check_device("stream", device);
  refuse_after_fork("stream");
  watch_for_fork();
  check_backend(backend().stream_create(device, &handle_), "stream");
  std::lock_guard lock(all().mutex);
  all().streams.push_back(this);
}

Stream::~Stream() {
  if (forked()) return;
  {
    std::lock_guard lock(all().mutex);
    std::erase(all().streams, this);
  }
  backend().stream_destroy(handle_);
}

void Stream::run(void* argument) {
  Launch* launch = static_cast<Launch*>(argument);
  StreamState& state = *launch->state;
  const uint64_t number = launch->number;
  if (!state.skips(number)) {
    const bool watched = profiling();
    const double begin = watched ? profile_time() : 0;
    try {
      launch->task();
    } catch (...) {
      state.fail(number, error_of(launch->name));
    }
    if (watched)
      record_span({launch->name, std::move(launch->task.shapes), std::move(launch->task.dtypes), launch->device,
                   launch->stream, begin, profile_time(), launch->task.flops, launch->task.bytes.value_or(0)});
  }
  delete launch;  // what the task held goes before anybody may think that it is done
  state.completed_.store(number, std::memory_order_release);
}

void Stream::launch(const char* name, Task task) {
  refuse_after_fork(name);
  if (rehearsing()) return note_rehearsed({name, task.flops, task.bytes.value_or(0)});
  auto launch = std::make_unique<Launch>(state_.get(), name, std::move(task), 0, device_, number_);
  {
    std::lock_guard lock(order_);
    launch->number = state_->launched_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (const int status = backend().stream_launch(handle_, &Stream::run, launch.get())) {
      state_->launched_.fetch_sub(1, std::memory_order_acq_rel);
      check_backend(status, name);
    }
    (void)launch.release();
  }
  if (launch_blocking()) synchronize();
}

void Stream::synchronize() {
  refuse_after_fork("synchronize");
  const uint64_t number = state_->launched();
  check_backend(backend().stream_synchronize(handle_), "synchronize");
  state_->raise(number);
}

bool Stream::query() const {
  refuse_after_fork("query");
  return backend().stream_query(handle_);
}

void Stream::wait(const Event& event) {
  refuse_after_fork("wait");
  std::scoped_lock lock(order_, event.mutex_);
  if (event.handle_) check_backend(backend().stream_wait_event(handle_, event.handle_), "wait");
}

Stream& current_stream() {
  Slot& here = slot(current_device());
  if (!here.current) here.current = here.own = std::make_shared<Stream>();
  return *here.current;
}

void set_current_stream(std::shared_ptr<Stream> stream) {
  ATTNEDIT_CHECK(stream, "set_stream", "stream must not be null");
  slot(stream->device()).current = std::move(stream);
}

namespace {

// The present end of a stream. The event is recorded only if there is something to wait for.
struct End {
  std::shared_ptr<StreamState> state;
  uint64_t number;
  Event event;
};

// Of every stream of a device, or of all devices (-1).
std::list<End> present_ends(int device) {
  std::list<End> ends;
  std::lock_guard lock(all().mutex);
  for (Stream* stream : all().streams) {
    if (device >= 0 && stream->device() != device) continue;
    End& end = ends.emplace_back(stream->state(), stream->state()->launched());
    if (!stream->query()) end.event.record(*stream);
  }
  return ends;
}

}  // namespace

void synchronize_device() {
  refuse_after_fork("synchronize");
  const std::list<End> ends = present_ends(current_device());
  for (const End& end : ends) end.event.wait();
  for (const End& end : ends) end.state->raise(end.number);
}

bool wait_for_all_streams() noexcept {
  if (forked()) return true;
  try {
    for (const End& end : present_ends(-1)) end.event.wait();
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace attnedit
