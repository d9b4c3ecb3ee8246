// limits THREADS: what this machine can do with them, in the instruction set that the kernels use. For every line of
// its input, `registers` or `memory`, a line of JSON: GFLOP/s of multiply-adds in registers, or GB/s of streams through
// arrays that no cache holds.
#include "simd/isa.h"

ATTNEDIT_LOOPS(double multiply_adds(int64_t steps, float a, float b, float* y);
               double pair_products(int64_t steps, float a, float b, float* y); float read(const float* x, int64_t n);
               void copy(const float* x, float* y, int64_t n); void copy_past(const float* x, float* y, int64_t n);
               void mixed(float* p, float* g, float* m, float* v, int64_t n);)

#ifdef ATTNEDIT_ISA

#include "simd/pack.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

// Independent chains, as many as a register tile has; returns the operations done.
double multiply_adds(int64_t steps, float a, float b, float* y) {
  constexpr int kChains = 2 * kTileRows;
  Vec sums[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sums[i] = splat(a + static_cast<float>(i));
  const Vec factor = splat(a), term = splat(b);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + term;
  }
  Vec all{};
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) all += sums[i];
  *y = sum(all);
  return 2.0 * kChains * kLanes * static_cast<double>(steps);
}

// The same in products of bfloat16 pairs, as the tiles do them.
double pair_products(int64_t steps, [[maybe_unused]] float a, [[maybe_unused]] float b, float* y) {
#if defined(__AMX_BF16__)
  const MatrixTiles<BFloat16Pair> tiles;
  *y = 0;
  steps /= 16;
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return 4 * 2.0 * kHalf * kHalf * (2 * kTileWords) * static_cast<double>(steps);
#else
  constexpr int kChains = 2 * kTileRows;
  Vec sums[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sums[i] = splat(a + static_cast<float>(i));
  float words[kLanes], word;
  store(words, pairs(splat(a), splat(b)));
  std::memcpy(&word, words, sizeof word);
  const Factor<BFloat16Pair> factor(words);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) factor.add_product(&word, sums[i]);
  }
  Vec all{};
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) all += sums[i];
  *y = sum(all);
  return 4.0 * kChains * kLanes * static_cast<double>(steps);
#endif
}

float read(const float* x, int64_t n) {
  Vec sums[8] = {};
  for (int64_t i = 0; i + 8 * kLanes <= n; i += 8 * kLanes)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sums[j] += load(x + i + j * kLanes);
  for (int j = 1; j < 8; ++j) sums[0] += sums[j];
  return sum(sums[0]);
}

void copy(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) store(y + i, load(x + i));
}

// The same past the caches, as the kernels store what is larger than a cache; y is aligned.
void copy_past(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) stream(y + i, load(x + i));
  end_stream();
}

// AdamW's streams: four read, three of them written back.
void mixed(float* p, float* g, float* m, float* v, int64_t n) {
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) {
    const Vec gradient = load(g + i), first = load(m + i) + gradient, second = load(v + i) + gradient;
    store(m + i, first);
    store(v + i, second);
    store(p + i, load(p + i) + first + second);
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
namespace {

template <class F>
double seconds_of(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

float* array(int64_t floats) {
  const size_t bytes = floats * sizeof(float);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("[limits] no memory for the arrays");
    std::exit(1);
  }
  madvise(p, bytes, MADV_HUGEPAGE);
  std::memset(p, 0, bytes);
  return static_cast<float*>(p);
}

// The best of several: registers are nobody else's, and what disturbs them takes whole cores.
void registers(int threads) {
  constexpr int kRepetitions = 7;
  const int pieces = 16 * threads;  // small ones: a thread that starts late takes fewer
  std::vector<float> results(16 * pieces);
  std::vector<double> done(pieces);
  const auto arithmetic = [&](auto f) {
    double best = 0;
    for (int i = 0; i < kRepetitions; ++i) {
      const double seconds = seconds_of([&] {
        parallel_items(pieces, [&](int64_t i, int) { done[i] = f(200'000, 0.5f, 0.25f, &results[16 * i]); });
      });
      best = std::max(best, std::accumulate(done.begin(), done.end(), 0.0) * 1e-9 / seconds);
    }
    return best;
  };
  const double fma = arithmetic(ATTNEDIT_BEST(multiply_adds)), pair = arithmetic(ATTNEDIT_BEST(pair_products));
  std::printf("{\"isa\": \"%s\", \"fma\": %.1f, \"pairs\": %.1f}\n", simd::name(simd::isa()), fma, pair);
}

// n floats that no cache holds, taken as one stream, two or four, once: memory is shared, and its rate is the moment's.
void memory(int64_t n, float* p) {
  const auto streams = [&](int arrays, int passes, const auto& f) {
    const int64_t each = n / arrays;
    return 4e-9 * passes * static_cast<double>(each) /
           seconds_of([&] { parallel_for(each, 1 << 16, [&](int64_t begin, int64_t end) { f(begin, end - begin); }); });
  };
  const auto read_of = ATTNEDIT_BEST(read);
  const auto copy_of = ATTNEDIT_BEST(copy);
  const auto copy_past_of = ATTNEDIT_BEST(copy_past);
  const auto mixed_of = ATTNEDIT_BEST(mixed);

  const double read = streams(1, 1, [&](int64_t i, int64_t count) {
    volatile float kept = read_of(p + i, count);
    (void)kept;
  });
  float* const half = p + n / 2;
  const double plain = streams(2, 2, [&](int64_t i, int64_t count) { copy_of(p + i, half + i, count); });
  const double past = streams(2, 2, [&](int64_t i, int64_t count) { copy_past_of(p + i, half + i, count); });
  const double mixed = streams(
      4, 7, [&](int64_t i, int64_t count) { mixed_of(p + i, p + n / 4 + i, half + i, half + n / 4 + i, count); });
  std::printf("{\"read\": %.2f, \"copy\": %.2f, \"mixed\": %.2f}\n", read, std::max(plain, past), mixed);
}

// The last cache of the core that runs this: what the C library says of a virtual machine may be its host's, all of it.
int64_t last_cache() {
  std::ifstream size("/sys/devices/system/cpu/cpu0/cache/index3/size");  // as 32768K
  int64_t kib = 0;
  size >> kib;
  return std::max<int64_t>(kib << 10, simd::kLastCache);
}

}  // namespace
}  // namespace attnedit::kernels

int main(int count, char** arguments) {
  using namespace attnedit;
  const int threads = count == 2 ? std::atoi(arguments[1]) : 0;
  if (threads < 1) {
    std::fprintf(stderr, "[limits] wanted one argument, a number of threads\n");
    return 2;
  }
  set_num_threads(threads);
  // Eight last caches, and the small ones of a virtual machine's cores 32 times: a share may stay in each core's.
  const int64_t floats = std::max<int64_t>(8 * kernels::last_cache(), 1 << 30) / static_cast<int64_t>(sizeof(float));
  float* numbers = nullptr;
  for (std::string asked; std::getline(std::cin, asked); std::fflush(stdout)) {
    if (asked == "registers") {
      kernels::registers(threads);
    } else if (asked == "memory") {
      if (!numbers) numbers = kernels::array(floats);
      kernels::memory(floats, numbers);
    } else {
      std::fprintf(stderr, "[limits] wanted lines of registers or memory, got %s\n", asked.c_str());
      return 2;
    }
  }
}

#endif
