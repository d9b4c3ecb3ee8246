#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/rope.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

std::vector<float> normal(int64_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> x(n);
  for (float& value : x) value = distribution(rng);
  return x;
}

bool close(float got, double want) { return std::abs(got - want) <= 1e-4 * (1 + std::abs(want)); }

void set_rate(benchmark::State& state, int64_t floats) {
  state.counters["GB/s"] =
      benchmark::Counter(4e-9 * static_cast<double>(floats), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::to_string(num_threads()) + " threads");
}

// The query and key heads of Qwen3-0.6B over its whole head, and MLA's rotary 64 of 192. The backward pass is the
// same loop with the angles negated.
void rope(benchmark::State& state) {
  const int64_t T = state.range(0), H = state.range(1), K = state.range(2), P = state.range(3), offset = K - P;
  const bool interleaved = state.range(4);
  const auto x = normal(T * H * K, 1), cos = normal(T * P / 2, 2), sin = normal(T * P / 2, 3);
  std::vector<float> y(T * H * K);
  const Task task =
      rope_forward({x.data(), {1, T, H, K}}, {cos.data(), {T, P / 2}}, {sin.data(), {T, P / 2}}, 0, offset,
                   interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalfSplit, {y.data(), {1, T, H, K}});
  task();
  const double partner = x[x.size() - (interleaved ? 2 : 1 + P / 2)];
  if (!close(y.back(), double(x.back()) * cos.back() + partner * sin.back()))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 2 * T * H * K);
}

BENCHMARK(rope)
    ->UseRealTime()
    ->ArgNames({"T", "H", "K", "P", "interleaved"})
    ->Args({1, 16, 128, 128, 0})
    ->Args({1024, 16, 128, 128, 0})
    ->Args({1024, 8, 128, 128, 0})
    ->Args({1024, 16, 192, 64, 1});

}  // namespace
}  // namespace attnedit::kernels
