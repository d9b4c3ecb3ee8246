// The residual addition at a model's width, beside memory's own speed: two reads and a write per number.
#include "kernels/add.h"
#include "measure.h"

namespace {

using namespace attnedit::benchmarks;

void add(benchmark::State& state) {
  const int64_t n = state.range(0) * 1024;
  std::vector<float> a(n), b(n), y(n);
  for (int64_t i = 0; i < n; ++i) a[i] = static_cast<float>(i % 97), b[i] = static_cast<float>(i % 89);
  const auto task = attnedit::kernels::add({a.data(), {n}}, {b.data(), {n}}, {y.data(), {n}});
  task();
  for (int64_t i = 0; i < n; i += 1009)
    if (y[i] != a[i] + b[i]) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 3 * n);
}
BENCHMARK(add)->Arg(512)->Arg(4096)->UseRealTime();

}  // namespace
