#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "kernels/fused_mse.h"
#include "measure.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::benchmarks;

// The attention outputs of Qwen3-0.6B: N tokens of 1024.
struct Run {
  int64_t N, D = 1024;
  std::vector<float> student = normal(N * D, 1), teacher = normal(N * D, 2), weights = std::vector<float>(N, 1.f),
                     loss = {0}, energy = {0, 0}, dstudent = student,
                     scratch = std::vector<float>(fused_mse_workspace(N));
  View<const float, 2> in(const std::vector<float>& x) const { return {x.data(), {N, D}}; }
  View<float, 1> workspace() { return {scratch.data(), {fused_mse_workspace(N)}}; }
};

void squared_error(benchmark::State& state) {
  Run run{state.range(0)};
  const Task task =
      fused_mse(run.in(run.student), run.in(run.teacher), {run.weights.data(), {run.N}}, 1e-12f, {run.loss.data(), {1}},
                {run.energy.data(), {2}}, {run.dstudent.data(), {run.N, run.D}}, run.workspace());
  task();
  double error = 0, energy = 0;
  for (int64_t i = 0; i < run.N * run.D; ++i) {
    error += std::pow(double(run.student[i]) - run.teacher[i], 2);
    energy += std::pow(double(run.teacher[i]), 2);
  }
  const double want = 2 * (double(run.student.back()) - run.teacher.back());
  if (!close(run.loss[0], error / energy) || !close(static_cast<float>(run.dstudent.back() * energy), want))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 5 * run.N * run.D);
}

void cosine(benchmark::State& state) {
  Run run{state.range(0)};
  const Task task = cosine_loss(run.in(run.student), run.in(run.teacher), {run.weights.data(), {run.N}},
                                {run.loss.data(), {1}}, {run.dstudent.data(), {run.N, run.D}}, run.workspace());
  task();
  double want = 0, ss = 0, st = 0, tt = 0;
  for (int64_t n = 0; n < run.N; ++n) {
    ss = st = tt = 0;
    for (int64_t i = n * run.D; i < (n + 1) * run.D; ++i) {
      const double s = run.student[i], t = run.teacher[i];
      ss += s * s, st += s * t, tt += t * t;
    }
    want += 1 - st / std::sqrt(ss * tt);
  }
  const double size = std::sqrt(ss * tt);
  const double slope = -(run.teacher.back() - st / ss * run.student.back());
  if (!close(run.loss[0], want) || !close(static_cast<float>(run.dstudent.back() * size), slope))
    return state.SkipWithError("wrong answer");
  for (auto _ : state) task();
  set_rate(state, 3 * run.N * run.D);
}

BENCHMARK(squared_error)->UseRealTime()->ArgName("N")->Arg(1024)->Arg(8192);
BENCHMARK(cosine)->UseRealTime()->ArgName("N")->Arg(1024)->Arg(8192);

}  // namespace
}  // namespace attnedit::kernels
