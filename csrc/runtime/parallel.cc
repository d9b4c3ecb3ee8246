#include "runtime/parallel.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "runtime/check.h"

namespace attnedit {
namespace {

std::atomic<int> budget{0};
thread_local bool in_region = false;

// How long a thread looks for work before it sleeps: a few microseconds, since kernels follow each other closely, but
// not longer, since Python needs a core too.
constexpr int kLooks = 2000;

void look_again() {
#if defined(__SSE2__)
  _mm_pause();
#endif
}

// The threads that help. They are made at first need and never end: a joining destructor would hang a process that
// leaves in the middle of a region.
class Team {
 public:
  static Team& instance() {
    static Team* team = new Team;
    return *team;
  }

  // False: the team is busy with another caller's region.
  bool run(int threads, void (*body)(void*, int), void* context) {
    const std::unique_lock one_region(one_region_, std::try_to_lock);
    if (!one_region) return false;
    {
      const std::lock_guard lock(mutex_);
      for (; helpers_ < threads - 1; ++helpers_) std::thread([this, place = helpers_] { help(place); }).detach();
      body_ = body;
      context_ = context;
      places_ = threads - 1;
      generation_.fetch_add(1, std::memory_order_release);
      if (sleepers_ > 0) begin_.notify_all();
    }
    in_region = true;
    body(context, 0);
    in_region = false;
    std::unique_lock lock(mutex_);
    places_ = 0;  // who has not begun stays out
    if (active_.load() > 0) {
      lock.unlock();
      for (int i = 0; i < kLooks && active_.load(std::memory_order_acquire) > 0; ++i) look_again();
      lock.lock();
      end_.wait(lock, [this] { return active_.load() == 0; });
    }
    return true;
  }

 private:
  void help(int place) {
    in_region = true;
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kLooks && generation_.load(std::memory_order_acquire) == seen; ++i) look_again();
      std::unique_lock lock(mutex_);
      ++sleepers_;
      begin_.wait(lock, [&] { return generation_.load() != seen; });
      --sleepers_;
      seen = generation_.load();
      if (place >= places_) continue;
      active_.fetch_add(1);
      void (*const body)(void*, int) = body_;
      void* const context = context_;
      lock.unlock();
      body(context, place + 1);
      lock.lock();
      if (active_.fetch_sub(1) == 1) end_.notify_one();
    }
  }

  std::mutex one_region_, mutex_;
  std::condition_variable begin_, end_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  int helpers_ = 0, sleepers_ = 0, places_ = 0;
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
};

}  // namespace

int num_threads() {
  const int threads = budget.load(std::memory_order_relaxed);
  if (threads > 0) return threads;
  // OMP_NUM_THREADS, as numerical programs are told; else the processors that this process may run on.
  const char* wanted = std::getenv("OMP_NUM_THREADS");
  const long number = wanted ? std::atol(wanted) : 0;
  const auto cores = std::clamp<int>(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostThreads);
  budget.store(number > 0 && number <= kMostThreads ? static_cast<int>(number) : cores, std::memory_order_relaxed);
  return budget.load(std::memory_order_relaxed);
}

void set_num_threads(int64_t threads) {
  ATTNEDIT_CHECK(threads >= 1 && threads <= kMostThreads, "set_num_threads", "threads must be from 1 to ", kMostThreads,
                 ", got ", threads);
  budget.store(static_cast<int>(threads), std::memory_order_relaxed);
}

void run_on_team(int threads, void (*body)(void*, int), void* context) {
  if (threads <= 1 || in_region || !Team::instance().run(threads, body, context)) body(context, 0);
}

}  // namespace attnedit
