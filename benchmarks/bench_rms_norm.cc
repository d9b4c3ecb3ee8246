#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/rms_norm.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

// The hidden rows of Qwen3-0.6B, and its query heads: N rows of D.
void rms_norm(benchmark::State& state) {
  const int64_t N = state.range(0), D = state.range(1);
  const auto x = normal(N * D, 1), weight = normal(D, 2);
  std::vector<float> y(N * D), rstd(N);
  const Task task =
      rms_norm_forward({x.data(), {N, D}}, {weight.data(), {D}}, 1e-6f, {y.data(), {N, D}}, {rstd.data(), {N}});
  task();
  double squares = 0;
  for (int64_t d = 0; d < D; ++d) squares += std::pow(x[(N - 1) * D + d], 2);
  if (!close(y.back(), x.back() * weight.back() / std::sqrt(squares / double(D) + 1e-6)))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 2 * N * D);
}

void rms_norm_gradient(benchmark::State& state) {
  const int64_t N = state.range(0), D = state.range(1);
  const auto x = normal(N * D, 1), weight = normal(D, 2), dy = normal(N * D, 3);
  std::vector<float> rstd(N), dx(N * D), dweight(D);
  for (int64_t n = 0; n < N; ++n) rstd[n] = 0.5f + 0.1f * static_cast<float>(n % 7);
  const Task task = rms_norm_backward({dy.data(), {N, D}}, {x.data(), {N, D}}, {weight.data(), {D}}, {rstd.data(), {N}},
                                      {dx.data(), {N, D}}, {dweight.data(), {D}});
  task();
  double products = 0, column = 0;
  for (int64_t d = 0; d < D; ++d) products += double(dy[(N - 1) * D + d]) * weight[d] * x[(N - 1) * D + d];
  for (int64_t n = 0; n < N; ++n) column += double(dy[n * D]) * x[n * D] * rstd[n];
  const double r = rstd.back();
  const double want = r * (double(dy.back()) * weight.back() - x.back() * products / double(D) * r * r);
  if (!close(dx.back(), want) || !close(dweight[0], column)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 5 * N * D);
}

BENCHMARK(rms_norm)->UseRealTime()->ArgNames({"N", "D"})->Args({1, 1024})->Args({1024, 1024})->Args({16384, 128});
BENCHMARK(rms_norm_gradient)->UseRealTime()->ArgNames({"N", "D"})->Args({1024, 1024})->Args({16384, 128});

}  // namespace
}  // namespace attnedit::kernels
