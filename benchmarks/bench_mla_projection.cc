#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/mla_projection.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

// Qwen3-0.6B's 16 heads as MLA: latent 512, rotary key 64, 128 key dims without rotation, 128 value dims.
constexpr int64_t H = 16, R = 512, P = 64, Kn = 128, Kv = 128;

struct Run {
  int64_t T;
  std::vector<float> kv_a = normal(T * (R + P), 1), weight = normal(R, 2), cos = normal(T * P / 2, 3),
                     sin = normal(T * P / 2, 4), latent = std::vector<float>(T * R), rstd = std::vector<float>(T),
                     k_rope = normal(T * P, 5), dkv_a = kv_a, dweight = std::vector<float>(R);
  View<const float, 2> table(const std::vector<float>& x) const { return {x.data(), {T, P / 2}}; }
};

void compress(benchmark::State& state) {
  Run run{state.range(0)};
  const int64_t T = run.T;
  const Task task = mla_compress_forward({run.kv_a.data(), {1, T, R + P}}, {run.weight.data(), {R}}, 1e-6f,
                                         run.table(run.cos), run.table(run.sin), 0, {run.latent.data(), {1, T, R}},
                                         {run.rstd.data(), {1, T}}, {run.k_rope.data(), {1, T, P}});
  task();
  const float* last = &run.kv_a[(T - 1) * (R + P)];
  double squares = 0;
  for (int64_t i = 0; i < R; ++i) squares += double(last[i]) * last[i];
  const double rotated = double(last[R + P - 1]) * run.cos.back() + double(last[R + P - 2]) * run.sin.back();
  if (!close(run.latent.back(), last[R - 1] * run.weight.back() / std::sqrt(squares / R + 1e-6)) ||
      !close(run.k_rope.back(), rotated))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 2 * T * (R + P));
}

void compress_gradient(benchmark::State& state) {
  Run run{state.range(0)};
  const int64_t T = run.T;
  const auto dlatent = normal(T * R, 6);
  std::fill(run.rstd.begin(), run.rstd.end(), 1.f);
  const Task task = mla_compress_backward({dlatent.data(), {1, T, R}}, {run.k_rope.data(), {1, T, P}},
                                          {run.kv_a.data(), {1, T, R + P}}, {run.weight.data(), {R}},
                                          {run.rstd.data(), {1, T}}, run.table(run.cos), run.table(run.sin), 0,
                                          {run.dkv_a.data(), {1, T, R + P}}, {run.dweight.data(), {R}});
  task();
  double column = 0;
  for (int64_t t = 0; t < T; ++t) column += double(dlatent[t * R]) * run.kv_a[t * (R + P)];
  const double rotated = double(run.k_rope.back()) * run.cos.back() - double(run.k_rope[T * P - 2]) * run.sin.back();
  if (!close(run.dweight[0], column) || !close(run.dkv_a.back(), rotated)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 5 * T * R + 2 * T * P);
}

void expand(benchmark::State& state) {
  const int64_t T = state.range(0);
  const auto kv = normal(T * H * (Kn + Kv), 1), k_rope = normal(T * P, 2);
  std::vector<float> k(T * H * (Kn + P)), v(T * H * Kv);
  const Task task = mla_expand_forward({kv.data(), {1, T, H, Kn + Kv}}, {k_rope.data(), {1, T, P}},
                                       {k.data(), {1, T, H, Kn + P}}, {v.data(), {1, T, H, Kv}});
  task();
  if (k.back() != k_rope.back() || v.back() != kv.back()) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, T * H * (2 * Kn + 2 * Kv + P) + T * P);
}

void expand_gradient(benchmark::State& state) {
  const int64_t T = state.range(0);
  const auto dk = normal(T * H * (Kn + P), 1), dv = normal(T * H * Kv, 2);
  std::vector<float> dkv(T * H * (Kn + Kv)), dk_rope(T * P);
  const Task task = mla_expand_backward({dk.data(), {1, T, H, Kn + P}}, {dv.data(), {1, T, H, Kv}},
                                        {dkv.data(), {1, T, H, Kn + Kv}}, {dk_rope.data(), {1, T, P}});
  task();
  double want = 0;
  for (int64_t h = (T - 1) * H; h < T * H; ++h) want += dk[(h + 1) * (Kn + P) - 1];
  if (dkv.back() != dv.back() || !close(dk_rope.back(), want)) return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, T * H * (2 * Kn + 2 * Kv + P) + T * P);
}

BENCHMARK(compress)->UseRealTime()->ArgName("T")->Arg(1)->Arg(1024);
BENCHMARK(compress_gradient)->UseRealTime()->ArgName("T")->Arg(1024);
BENCHMARK(expand)->UseRealTime()->ArgName("T")->Arg(1)->Arg(1024);
BENCHMARK(expand_gradient)->UseRealTime()->ArgName("T")->Arg(1024);

}  // namespace
}  // namespace attnedit::kernels
