#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/adamw.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

// A norm's weight, one query projection (2048 x 1024) and sixteen of them, which no cache holds.
void adamw_step(benchmark::State& state) {
  const int64_t n = state.range(0);
  auto parameter = normal(n, 1), gradient = normal(n, 2);
  const double p = parameter.back(), g = gradient.back();
  std::vector<float> m(n), v(n);
  const Task task = adamw({parameter.data(), {n}}, {gradient.data(), {n}}, {m.data(), {n}}, {v.data(), {n}}, {},
                          {.rate = 1e-3f, .weight_decay = 0.1f});
  task();
  if (!close(parameter.back(), p - 1e-3 * (g / (std::abs(g) + 1e-8) + 0.1 * p)) || gradient.back() != 0)
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 8 * n);
}

void squared_norm_of(benchmark::State& state) {
  const int64_t n = state.range(0);
  const auto gradient = normal(n, 1);
  std::vector<float> total(1), scratch(squared_norm_workspace(n));
  const Task task = squared_norm({gradient.data(), {n}}, {total.data(), {1}},
                                 {scratch.data(), {static_cast<int64_t>(scratch.size())}});
  task();
  double want = 0;
  for (float g : gradient) want += double(g) * g;
  if (!close(total[0], want)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, n);
}

BENCHMARK(adamw_step)->UseRealTime()->ArgName("n")->Arg(1024)->Arg(2048 * 1024)->Arg(16 * 2048 * 1024);
BENCHMARK(squared_norm_of)->UseRealTime()->ArgName("n")->Arg(1024)->Arg(2048 * 1024)->Arg(16 * 2048 * 1024);

}  // namespace
}  // namespace attnedit::kernels
