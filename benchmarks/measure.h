#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "runtime/parallel.h"

// What every kernel's benchmark needs: numbers, a check before the clock starts, a rate that can be compared.
namespace attnedit::benchmarks {

inline std::vector<float> normal(int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> x(n);
  for (float& value : x) value = distribution(rng);
  return x;
}

inline bool close(float got, double want) { return std::abs(got - want) <= 1e-4 * (1 + std::abs(want)); }

inline void set_rate(benchmark::State& state, int64_t floats) {
  state.counters["GB/s"] =
      benchmark::Counter(4e-9 * static_cast<double>(floats), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::to_string(num_threads()) + " threads");
}

}  // namespace attnedit::benchmarks
