// The residual addition at a model's width, beside memory's own speed: two reads and a write per number.
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/add.h"

namespace {

using attnedit::View;

void add(benchmark::State& state) {
  const int64_t n = state.range(0) * 1024;
  std::vector<float> a(n), b(n), y(n);
  for (int64_t i = 0; i < n; ++i) a[i] = static_cast<float>(i % 97), b[i] = static_cast<float>(i % 89);
  const auto task = attnedit::kernels::add({a.data(), {n}}, {b.data(), {n}}, {y.data(), {n}});
  task();
  for (int64_t i = 0; i < n; i += 1009)
    if (y[i] != a[i] + b[i]) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  state.counters["GB/s"] = benchmark::Counter(
      12.0 * static_cast<double>(n), benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  state.counters["GB/s"].value /= 1e9;
}
BENCHMARK(add)->Arg(512)->Arg(4096)->UseRealTime();

}  // namespace
