#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace attnedit {

// The one thread budget of the process. Results never depend on it: every sum has one owner.
int num_threads();
void set_num_threads(int64_t threads);
constexpr int kMostThreads = 1024;  // each has a stack, and a slice of every kernel's scratch

// Flushes subnormals while alive and gives the caller's setting back: on Intel they cost 5 to 20 times.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(get()) { set(saved_ | kFlush); }
  ~FlushSubnormals() { set(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
#if defined(__SSE2__)
  static constexpr uint64_t kFlush = 0x8040;  // flush to zero, denormals are zero
  static uint64_t get() { return _mm_getcsr(); }
  static void set(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kFlush = 1 << 24;
  static uint64_t get() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  static constexpr uint64_t kFlush = 0;
  static uint64_t get() { return 0; }
  static void set(uint64_t) {}
#endif
  uint64_t saved_;
};

// Numbers of a pass over memory that are worth a thread.
constexpr int64_t kGrain = 1 << 15;

// How many parts of at most `part` cover n.
constexpr int64_t parts_of(int64_t n, int64_t part) { return (n + part - 1) / part; }

// Runs body(worker) on the calling thread, as worker 0, and on up to threads - 1 others, each the same worker every
// time; returns when all that began have ended. A thread that the system has not scheduled by then is not waited for:
// on a busy machine a region costs no more than the caller alone would need. Inside a region, and beside another one,
// the caller works alone. body must not throw.
void run_on_team(int threads, void (*body)(void* context, int worker), void* context);

// Calls f(i, worker) for every i in [0, n), in any order, one at a time per worker; worker < num_threads() picks
// a slice of scratch memory. For items of unequal cost: put the longest first. f must not throw.
template <class F>
void parallel_items(int64_t n, const F& f) {
  if (n <= 0) return;
  struct Region {
    const F& f;
    const int64_t n;
    std::atomic<int64_t> next{0};
  } region{f, n};
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), n));
  run_on_team(
      threads,
      [](void* context, int worker) {
        Region& shared = *static_cast<Region*>(context);
        FlushSubnormals flush;
        for (int64_t i; (i = shared.next.fetch_add(1, std::memory_order_relaxed)) < shared.n;) shared.f(i, worker);
      },
      &region);
}

// Calls f(begin, end) on contiguous ranges that cover [0, n), none but the last shorter than grain.
// f must give the same bits however the range is cut, and must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  // A few ranges per thread: who is late takes fewer. Each begins with the same share every time, which its own cache
  // may still hold from the kernel before: cores need not share their last cache, even where the system says so.
  constexpr int64_t kPerThread = 4, kMost = 1024;
  const int64_t most = num_threads() == 1 ? 1 : std::min(kMost, kPerThread * num_threads());
  const int64_t ranges = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, most);
  if (n <= 0) return;
  struct Region {
    const F& f;
    const int64_t n, ranges, threads;
    std::atomic<bool> taken[kMost];
  };
  const int64_t threads = std::min<int64_t>(num_threads(), ranges);
  Region region{f, n, ranges, threads, {}};
  run_on_team(
      static_cast<int>(threads),
      [](void* context, int worker) {
        Region& shared = *static_cast<Region*>(context);
        FlushSubnormals flush;
        const int64_t length = parts_of(shared.n, shared.ranges);
        const int64_t first = worker * shared.ranges / shared.threads;
        const int64_t own = (worker + 1) * shared.ranges / shared.threads - first;
        for (int64_t k = 0; k < shared.ranges; ++k) {
          // Behind its own share a worker helps the one before it, from that share's end.
          const int64_t i = k < own ? first + k : (first + own - 1 - k + shared.ranges) % shared.ranges;
          const int64_t begin = i * length;
          if (!shared.taken[i].exchange(true, std::memory_order_relaxed) && begin < shared.n)
            shared.f(begin, std::min(shared.n, begin + length));
        }
      },
      &region);
}

// The same for rows of `width` numbers, at least kGrain of them together.
template <class F>
void parallel_rows(int64_t n, int64_t width, const F& f) {
  parallel_for(n, kGrain / std::max<int64_t>(width, 1) + 1, f);
}

// The same for the numbers of arrays: ranges begin at a cache line where the arrays do, so that no two threads write to
// one line.
template <class F>
void parallel_numbers(int64_t n, const F& f, int64_t grain = kGrain) {
  constexpr int64_t kLine = 16;
  parallel_for(parts_of(n, kLine), grain / kLine,
               [&](int64_t begin, int64_t end) { f(begin * kLine, std::min(n, end * kLine)); });
}

}  // namespace attnedit
