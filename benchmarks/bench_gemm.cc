#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/gemm.h"
#include "measure.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

enum Product { kForward, kInputBackward, kWeightBackward };

// One entry of the product in double: sum_l a[l * stride_a] b[l * stride_b].
bool close(float got, const float* a, int64_t stride_a, const float* b, int64_t stride_b, int64_t n) {
  double want = 0;
  for (int64_t l = 0; l < n; ++l) want += double(a[l * stride_a]) * b[l * stride_b];
  return std::abs(got - want) <= 1e-3 * (1 + std::abs(want));
}

// Arguments: tokens, input width, output width, product, whether the weight is stored as bfloat16.
void gemm_product(benchmark::State& state) {
  const int64_t N = state.range(0), I = state.range(1), O = state.range(2);
  const auto product = static_cast<Product>(state.range(3));
  const DType dtype = state.range(4) ? DType::kBFloat16 : DType::kFloat32;
  auto x = normal(N * I, 1), dy = normal(N * O, 2), weight = normal(O * I, 3);
  std::vector<uint16_t> stored(O * I, 0x3f80);  // ones
  if (state.range(4)) weight.assign(O * I, 1.f);
  const WeightView<2> w{state.range(4) ? static_cast<const void*>(stored.data()) : weight.data(), dtype, {O, I}};
  std::vector<float> y(N * O), dx(N * I), dweight(O * I), scratch(gemm_workspace(N, I, O, dtype));
  const View<float, 1> workspace{scratch.data(), {int64_t(scratch.size())}};
  const Task task = product == kForward ? gemm_forward({x.data(), {N, I}}, w, {}, {y.data(), {N, O}}, workspace)
                    : product == kInputBackward
                        ? gemm_input_backward({dy.data(), {N, O}}, w, {dx.data(), {N, I}}, workspace)
                        : gemm_weight_backward({dy.data(), {N, O}}, {x.data(), {N, I}}, {dweight.data(), {O, I}}, {});
  task();
  const bool right = product == kForward         ? close(y.back(), &x[(N - 1) * I], 1, &weight[(O - 1) * I], 1, I)
                     : product == kInputBackward ? close(dx.back(), &dy[(N - 1) * O], 1, &weight[I - 1], I, O)
                                                 : close(dweight.back(), &dy[O - 1], O, &x[I - 1], I, N);
  if (!right) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * N * I * O, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["weight GB/s"] =
      benchmark::Counter(1e-9 * O * I * size_of(dtype), benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(blas_core_name()) + ", " + std::to_string(num_threads()) + " threads");
}

BENCHMARK(gemm_product)
    ->UseRealTime()
    ->ArgNames({"N", "I", "O", "product", "bf16"})
    ->ArgsProduct({{1024}, {1024}, {3072}, {kForward, kInputBackward, kWeightBackward}, {0}})
    ->Args({1024, 3072, 1024, kForward, 0})
    ->Args({1024, 1024, 1024, kForward, 0})
    ->Args({1024, 1024, 3072, kForward, 1})
    ->ArgsProduct({{2048}, {128}, {128}, {kForward, kInputBackward, kWeightBackward}, {0}})
    ->ArgsProduct({{1, 4, 8, 16}, {1024}, {3072}, {kForward}, {0, 1}});

}  // namespace
}  // namespace attnedit::kernels
