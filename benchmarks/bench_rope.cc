#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/rope.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

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
