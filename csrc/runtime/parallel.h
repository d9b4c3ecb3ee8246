#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace attnedit {

// The one thread budget of the process. Results never depend on it: every sum has one owner.
int num_threads();
void set_num_threads(int threads);

// Flushes subnormals while alive and gives the caller's setting back: on Intel they cost 5 to 20 times.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

// While alive, OpenMP regions that a library opens from this thread have one thread. A library's own setting is not
// enough: OpenBLAS follows OpenMP's, which every thread of the program starts with afresh.
class SingleThreadedLibrary {
 public:
  SingleThreadedLibrary() : saved_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreadedLibrary() { omp_set_num_threads(saved_); }

 private:
  int saved_;
};

// Calls f(begin, end) on contiguous ranges that cover [0, n): at most one per thread, none shorter than grain.
// f must give the same bits however the range is cut, and must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  const int64_t threads = std::min<int64_t>(num_threads(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (n <= 0) return;
  if (threads <= 1 || omp_in_parallel()) {
    FlushSubnormals flush;
    f(int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    FlushSubnormals flush;
    const int64_t team = omp_get_num_threads();
    const int64_t chunk = (n + team - 1) / team;
    const int64_t begin = omp_get_thread_num() * chunk;
    if (begin < n) f(begin, std::min(n, begin + chunk));
  }
}

// Calls f(i, worker) for every i in [0, n), in any order, one at a time per worker; worker < num_threads() picks
// a slice of scratch memory. For items of unequal cost: put the longest first. f must not throw.
template <class F>
void parallel_items(int64_t n, const F& f) {
  const int64_t threads = std::min<int64_t>(num_threads(), n);
  if (threads <= 1 || omp_in_parallel()) {
    FlushSubnormals flush;
    for (int64_t i = 0; i < n; ++i) f(i, 0);
    return;
  }
#pragma omp parallel num_threads(static_cast <int>(threads))
  {
    FlushSubnormals flush;
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < n; ++i) f(i, omp_get_thread_num());
  }
}

}  // namespace attnedit
