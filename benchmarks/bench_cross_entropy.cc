#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

enum Wanted { kLoss, kHidden, kBoth };

std::vector<float> normal(int64_t n, unsigned seed, float scale) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution(0, scale);
  std::vector<float> x(n);
  for (float& value : x) value = distribution(rng);
  return x;
}

// The first token's loss for label 0, in double.
double first_nll(const std::vector<float>& hidden, const std::vector<float>& head, int64_t D) {
  double sum = 0, label_logit = 0;  // logits are small here: no peak to take off
  for (size_t v = 0; v < head.size() / D; ++v) {
    double z = 0;
    for (int64_t d = 0; d < D; ++d) z += double(hidden[d]) * head[v * D + d];
    sum += std::exp(z);
    if (v == 0) label_logit = z;
  }
  return std::log(sum) - label_logit;
}

// Arguments: tokens, width, vocabulary, what is wanted.
void nll(benchmark::State& state) {
  const int64_t N = state.range(0), D = state.range(1), V = state.range(2);
  const auto wanted = static_cast<Wanted>(state.range(3));
  const auto head = normal(V * D, 1, 1 / std::sqrt(float(D))), hidden = normal(N * D, 2, 1);
  const std::vector<float> weights(N, 1.f / N);
  std::vector<int32_t> labels(N), argmax(N);
  for (int64_t n = 0; n < N; ++n) labels[n] = int32_t(n * 7919 % V);
  std::vector<float> loss(1), each(N), dhidden(N * D), dhead(wanted == kBoth ? V * D : 0);
  std::vector<float> scratch(cross_entropy_workspace(N, D, V));
  const Task task = cross_entropy({hidden.data(), {N, D}}, {head.data(), DType::kFloat32, {V, D}}, {labels.data(), {N}},
                                  {weights.data(), {N}}, {loss.data(), {1}}, {each.data(), {N}}, {argmax.data(), {N}},
                                  wanted == kLoss ? View<float, 2>{} : View<float, 2>{dhidden.data(), {N, D}},
                                  wanted == kBoth ? View<float, 2>{dhead.data(), {V, D}} : View<float, 2>{},
                                  {scratch.data(), {int64_t(scratch.size())}});
  task();
  if (std::abs(each[0] - first_nll(hidden, head, D)) > 1e-4) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  // The least that the answer takes: one product for the logits, one for each gradient.
  const double products = wanted == kLoss ? 1 : wanted == kHidden ? 2 : 3;
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * products * N * D * V, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["scratch MiB"] = double(scratch.size()) * 4 / (1 << 20);
  state.SetLabel(std::string(blas_core_name()) + ", " + std::to_string(num_threads()) + " threads");
}

BENCHMARK(nll)
    ->Name("cross_entropy")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->ArgNames({"N", "D", "V", "wanted"})
    ->ArgsProduct({{512}, {1024}, {151936}, {kLoss, kHidden, kBoth}})
    ->ArgsProduct({{4096}, {128}, {1024}, {kLoss, kHidden, kBoth}});

}  // namespace
}  // namespace attnedit::kernels
