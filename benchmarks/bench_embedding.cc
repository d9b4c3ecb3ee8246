#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/embedding.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

constexpr int64_t kVocabulary = 151936, kWidth = 1024;

std::vector<int32_t> random_tokens(int64_t N) {
  std::mt19937 rng(1);
  std::vector<int32_t> tokens(N);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % kVocabulary);
  return tokens;
}

// The table of Qwen3-0.6B in the type that it is stored in.
void embedding(benchmark::State& state) {
  const int64_t N = state.range(0);
  const auto tokens = random_tokens(N);
  std::vector<uint16_t> table(kVocabulary * kWidth, 0x3f80);  // ones
  table[tokens.back() * kWidth] = 0xc040;                     // -3
  std::vector<float> y(N * kWidth);
  const Task task = embedding_forward({tokens.data(), {N}}, {table.data(), DType::kBFloat16, {kVocabulary, kWidth}},
                                      {y.data(), {N, kWidth}});
  task();
  if (!close(y[(N - 1) * kWidth], -3) || !close(y.back(), 1)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, N * kWidth * 3 / 2);
}

void embedding_gradient(benchmark::State& state) {
  const int64_t N = state.range(0);
  const auto tokens = random_tokens(N);
  const auto dy = normal(N * kWidth, 2);
  std::vector<float> dtable(kVocabulary * kWidth);
  const Task task =
      embedding_backward({dy.data(), {N, kWidth}}, {tokens.data(), {N}}, {dtable.data(), {kVocabulary, kWidth}});
  task();
  double want = 0;
  for (int64_t n = 0; n < N; ++n)
    if (tokens[n] == tokens.back()) want += dy[n * kWidth];
  if (!close(dtable[tokens.back() * kWidth], want)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 3 * N * kWidth);
}

BENCHMARK(embedding)->UseRealTime()->ArgName("N")->Arg(1)->Arg(1024);
BENCHMARK(embedding_gradient)->UseRealTime()->ArgName("N")->Arg(1024);

}  // namespace
}  // namespace attnedit::kernels
