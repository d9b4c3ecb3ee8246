#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/fused_kl.h"
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

// The first token's forward divergence at temperature 1, in double.
double first_divergence(const std::vector<float>& student, const std::vector<float>& teacher,
                        const std::vector<float>& head, int64_t D) {
  double sum_q = 0, sum_p = 0, cross = 0;  // logits are small here: no peak to take off
  for (size_t v = 0; v < head.size() / D; ++v) {
    double q = 0, p = 0;
    for (int64_t d = 0; d < D; ++d)
      q += double(student[d]) * head[v * D + d], p += double(teacher[d]) * head[v * D + d];
    sum_q += std::exp(q), sum_p += std::exp(p), cross += std::exp(p) * (p - q);
  }
  return cross / sum_p - std::log(sum_p) + std::log(sum_q);
}

// Arguments: tokens, width, vocabulary, divergence, what is wanted. Student and teacher share the head.
void kl_divergence(benchmark::State& state) {
  const int64_t N = state.range(0), D = state.range(1), V = state.range(2);
  const auto wanted = static_cast<Wanted>(state.range(4));
  const auto head = normal(V * D, 1, 1 / std::sqrt(float(D)));
  const auto student = normal(N * D, 2, 1), teacher = normal(N * D, 3, 1);
  const std::vector<float> weights(N, 1.f / N);
  std::vector<float> loss(1), divergences(N), dstudent(N * D), dhead(wanted == kBoth ? V * D : 0);
  const FusedKlOptions options{static_cast<Divergence>(state.range(3)), 1};
  std::vector<float> scratch(fused_kl_workspace(N, D, V, options));
  const WeightView<2> w{head.data(), DType::kFloat32, {V, D}};
  const Task task = fused_kl({student.data(), {N, D}}, w, {teacher.data(), {N, D}}, w, {weights.data(), {N}}, options,
                             {loss.data(), {1}}, {divergences.data(), {N}},
                             wanted == kLoss ? View<float, 2>{} : View<float, 2>{dstudent.data(), {N, D}},
                             wanted == kBoth ? View<float, 2>{dhead.data(), {V, D}} : View<float, 2>{},
                             {scratch.data(), {int64_t(scratch.size())}});
  task();
  if (options.divergence == Divergence::kForward &&
      std::abs(divergences[0] - first_divergence(student, teacher, head, D)) > 1e-4)
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  // The least that the answer takes: two products for the logits, one for each gradient.
  const double products = wanted == kLoss ? 2 : wanted == kHidden ? 3 : 4;
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * products * N * D * V, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["scratch MiB"] = double(scratch.size()) * 4 / (1 << 20);
  state.SetLabel(std::string(blas_core_name()) + ", " + std::to_string(num_threads()) + " threads");
}

BENCHMARK(kl_divergence)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->ArgNames({"N", "D", "V", "divergence", "wanted"})
    ->ArgsProduct({{512}, {1024}, {151936}, {int64_t(Divergence::kForward)}, {kLoss, kHidden, kBoth}})
    ->Args({512, 1024, 151936, int64_t(Divergence::kReverse), kHidden})
    ->Args({512, 1024, 151936, int64_t(Divergence::kJsd), kHidden})
    ->ArgsProduct({{4096}, {128}, {1024}, {int64_t(Divergence::kForward)}, {kLoss, kHidden, kBoth}})
    ->ArgsProduct({{4096}, {192}, {2048}, {int64_t(Divergence::kForward)}, {kHidden, kBoth}});

}  // namespace
}  // namespace attnedit::kernels
