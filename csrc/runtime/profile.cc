#include "runtime/profile.h"

#include <atomic>
#include <chrono>
#include <mutex>

#include "runtime/check.h"

namespace attnedit {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> on{false};
std::mutex mutex;
std::vector<Span> spans;
Clock::time_point started;

}  // namespace

bool profiling() { return on.load(std::memory_order_relaxed); }

void start_profile() {
  std::lock_guard lock(mutex);
  ATTNEDIT_CHECK(!on, "profile", "another profile must not be running");
  spans.clear();
  started = Clock::now();
  on = true;
}

std::vector<Span> stop_profile() {
  std::lock_guard lock(mutex);
  on = false;
  return std::move(spans);
}

double profile_time() {
  std::lock_guard lock(mutex);
  return std::chrono::duration<double>(Clock::now() - started).count();
}

void record_span(Span span) {
  std::lock_guard lock(mutex);
  if (on) spans.push_back(std::move(span));
}

}  // namespace attnedit
