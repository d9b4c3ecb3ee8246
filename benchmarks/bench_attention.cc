#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

struct Run {
  int64_t T, H, G, K, Kv, window;
  float scale = 1 / std::sqrt(static_cast<float>(K));
  std::vector<float> q = normal(T * H * K, 1), k = normal(T * G * K, 2), v = normal(T * G * Kv, 3),
                     dy = normal(T * H * Kv, 4), o = std::vector<float>(T * H * Kv), lse = std::vector<float>(T * H),
                     dq = q, dk = k, dv = v,
                     space = std::vector<float>(std::max(attention_forward_workspace(1, T, H, G, K, Kv),
                                                         attention_backward_workspace(1, T, H, G, K, Kv)) +
                                                16);

  View<const float, 4> in(const std::vector<float>& x, int64_t heads, int64_t width) const {
    return {x.data(), {1, T, heads, width}};
  }
  View<float, 4> out(std::vector<float>& x, int64_t heads, int64_t width) const {
    return {x.data(), {1, T, heads, width}};
  }
  // As the memory pool would give it: from the start of a cache line.
  View<float, 1> workspace() {
    const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(space.data()) / sizeof(float) % 16);
    return {space.data() + (16 - past) % 16, {static_cast<int64_t>(space.size()) - 16}};
  }
  Task forward() {
    return attention_forward(in(q, H, K), in(k, G, K), in(v, G, Kv), {}, {scale, window}, out(o, H, Kv), {},
                             {lse.data(), {1, H, T}}, workspace());
  }
  Task backward() {
    return attention_backward(in(dy, H, Kv), in(q, H, K), in(k, G, K), in(v, G, Kv), {}, {scale, window}, in(o, H, Kv),
                              {lse.data(), {1, H, T}}, out(dq, H, K), out(dk, G, K), out(dv, G, Kv), {}, workspace());
  }

  // The last query of the last head, against the definition in double.
  bool right() const {
    const int64_t t = T - 1, first = window > 0 ? std::max<int64_t>(0, T - window) : 0;
    std::vector<double> want(Kv);
    double total = 0;
    for (int64_t j = first; j <= t; ++j) {
      double s = 0;
      for (int64_t i = 0; i < K; ++i) s += double(q[(t * H + H - 1) * K + i]) * k[(j * G + G - 1) * K + i];
      const double p = std::exp(s * scale);
      total += p;
      for (int64_t i = 0; i < Kv; ++i) want[i] += p * v[(j * G + G - 1) * Kv + i];
    }
    for (int64_t i = 0; i < Kv; ++i)
      if (!(std::abs(want[i] / total - o[(t * H + H - 1) * Kv + i]) < 1e-5)) return false;
    return true;
  }
  // Multiply-adds that the definition needs: the pairs of query and key that see each other, times both widths.
  double useful() const {
    double pairs = 0;
    for (int64_t t = 0; t < T; ++t) pairs += window > 0 ? std::min(t + 1, window) : t + 1;
    return pairs * H;
  }
};

void measure(benchmark::State& state, bool is_forward) {
  Run run{state.range(0), state.range(1), state.range(2), state.range(3), state.range(4), state.range(5)};
  run.forward()();
  if (!run.right()) return state.SkipWithError("the answer is wrong");
  const Task task = is_forward ? run.forward() : run.backward();
  for (auto _ : state) task();
  const double flops = run.useful() * (is_forward ? 2.0 * (run.K + run.Kv) : 2.0 * (3 * run.K + 2 * run.Kv)) *
                       double(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsRate);
}
void forward(benchmark::State& state) { measure(state, true); }
void backward(benchmark::State& state) { measure(state, false); }

// Qwen3-0.6B, full and windowed; its multi-head latent form; a toy.
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "H", "G", "K", "Kv", "window"})->UseRealTime()->Unit(benchmark::kMillisecond);
  b->Args({512, 16, 8, 128, 128, 0})->Args({2048, 16, 8, 128, 128, 0})->Args({2048, 16, 8, 128, 128, 512});
  b->Args({2048, 16, 16, 192, 128, 0})->Args({512, 8, 8, 64, 64, 0})->Args({512, 8, 8, 8, 8, 0});
}
BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

}  // namespace
}  // namespace attnedit::kernels
