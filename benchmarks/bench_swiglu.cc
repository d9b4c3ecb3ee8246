#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/swiglu.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

double silu(double a) { return a / (1 + std::exp(-a)); }

// The MLP of Qwen3-0.6B: N tokens of 3072.
void swiglu(benchmark::State& state) {
  const int64_t N = state.range(0), F = 3072;
  const auto gate = normal(N * F, 1), up = normal(N * F, 2);
  std::vector<float> y(N * F);
  const Task task = swiglu_forward({gate.data(), {N, F}}, {up.data(), {N, F}}, {y.data(), {N, F}});
  task();
  if (!close(y.back(), silu(gate.back()) * up.back())) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 3 * N * F);
}

void swiglu_gradient(benchmark::State& state) {
  const int64_t N = state.range(0), F = 3072;
  const auto gate = normal(N * F, 1), up = normal(N * F, 2), dy = normal(N * F, 3);
  std::vector<float> dgate(N * F), dup(N * F);
  const Task task = swiglu_backward({dy.data(), {N, F}}, {gate.data(), {N, F}}, {up.data(), {N, F}},
                                    {dgate.data(), {N, F}}, {dup.data(), {N, F}});
  task();
  const double h = 1e-5, slope = (silu(gate.back() + h) - silu(gate.back() - h)) / (2 * h);
  if (!close(dgate.back(), slope * up.back() * dy.back()) || !close(dup.back(), silu(gate.back()) * dy.back()))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 5 * N * F);
}

BENCHMARK(swiglu)->UseRealTime()->ArgName("N")->Arg(1)->Arg(1024);
BENCHMARK(swiglu_gradient)->UseRealTime()->ArgName("N")->Arg(1024);

}  // namespace
}  // namespace attnedit::kernels
