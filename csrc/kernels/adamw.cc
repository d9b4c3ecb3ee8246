#include "simd/isa.h"

namespace attnedit::kernels {
// What one step needs of its options; m_scale and v_scale are 1 / (1 - beta^step).
struct AdamWStep {
  float gradient_scale, rate, beta1, beta2, m_scale, v_scale, eps, weight_decay;
};
}  // namespace attnedit::kernels

// Elements [begin, end); rounded may be null.
ATTNEDIT_LOOPS(void adamw_range(float* parameter, float* gradient, float* m, float* v, uint16_t* rounded,
                                AdamWStep step, bool zero_gradient, int64_t begin, int64_t end);
               double square(const float* x, int64_t n);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

void update(float* __restrict parameter, const float* __restrict gradient, float* __restrict m, float* __restrict v,
            const AdamWStep& step, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gradient[i] * step.gradient_scale;
    m[i] = step.beta1 * m[i] + (1.f - step.beta1) * g;
    v[i] = step.beta2 * v[i] + (1.f - step.beta2) * g * g;
    const float direction = m[i] * step.m_scale / (std::sqrt(v[i] * step.v_scale) + step.eps);
    parameter[i] -= step.rate * (direction + step.weight_decay * parameter[i]);
  }
}

}  // namespace

void adamw_range(float* parameter, float* gradient, float* m, float* v, uint16_t* rounded, AdamWStep step,
                 bool zero_gradient, int64_t begin, int64_t end) {
  // Block by block: what is rounded, and the gradient that is cleared, are still in the cache.
  constexpr int64_t kBlock = 1024;
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = end - i < kBlock ? end - i : kBlock;
    update(parameter + i, gradient + i, m + i, v + i, step, n);
    if (rounded) narrow_bfloat16(parameter + i, rounded + i, n);
    if (zero_gradient) std::memset(gradient + i, 0, n * sizeof(float));
  }
}

// Blocks keep the sums in float short.
double square(const float* x, int64_t n) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t i = 0; i < n; i += kBlock) total += dot(x + i, x + i, n - i < kBlock ? n - i : kBlock);
  return total;
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>
#include <cstring>

#include "kernels/adamw.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {
constexpr int64_t kChunk = 1 << 15;  // numbers in one partial sum
int64_t chunks(int64_t n) { return parts_of(n, kChunk); }
}  // namespace

Task adamw(View<float, 1> parameter, View<float, 1> gradient, View<float, 1> m, View<float, 1> v,
           View<const float, 1> gradient_scale, View<uint16_t, 1> rounded, AdamWOptions options) {
  const auto check_shape = [&](const char* name, const auto& x) {
    ATTNEDIT_CHECK(x.shape == parameter.shape, "adamw", name, " must have shape ", to_string(parameter.shape), ", got ",
                   to_string(x.shape));
  };
  check_shape("gradient", gradient);
  check_shape("m", m);
  check_shape("v", v);
  if (rounded) check_shape("rounded", rounded);
  ATTNEDIT_CHECK(!gradient_scale || gradient_scale.dim(0) == 1, "adamw", "gradient_scale must have shape (1,), got ",
                 to_string(gradient_scale.shape));
  ATTNEDIT_CHECK(options.step >= 1, "adamw", "step must be 1 or more, got ", options.step);
  const auto check_option = [](const char* name, float value, bool right, const char* wanted) {
    ATTNEDIT_CHECK(right && std::isfinite(value), "adamw", name, " must be ", wanted, ", got ", value);
  };
  check_option("rate", options.rate, options.rate >= 0, "0 or more and finite");
  check_option("beta1", options.beta1, options.beta1 >= 0 && options.beta1 < 1, "at least 0 and below 1");
  check_option("beta2", options.beta2, options.beta2 >= 0 && options.beta2 < 1, "at least 0 and below 1");
  check_option("eps", options.eps, options.eps >= 0, "0 or more and finite");
  check_option("weight_decay", options.weight_decay, options.weight_decay >= 0, "0 or more and finite");
  Task task = [=] {
    const auto step = static_cast<double>(options.step);
    const AdamWStep one_step{gradient_scale ? gradient_scale.data[0] : 1.f,
                             options.rate,
                             options.beta1,
                             options.beta2,
                             static_cast<float>(1 / (1 - std::pow(double{options.beta1}, step))),
                             static_cast<float>(1 / (1 - std::pow(double{options.beta2}, step))),
                             options.eps,
                             options.weight_decay};
    parallel_numbers(parameter.dim(0), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(adamw_range)
      (parameter.data, gradient.data, m.data, v.data, rounded.data, one_step, options.zero_gradient, begin, end);
    });
  };
  const int64_t bytes = (options.zero_gradient ? 8 : 7) * sizeof(float) + (rounded ? sizeof(uint16_t) : 0);
  return std::move(task).moving(1.0 * bytes * parameter.dim(0));
}

// One double for each chunk, in the place of two floats.
int64_t squared_norm_workspace(int64_t n) { return 2 * chunks(n); }

Task squared_norm(View<const float, 1> gradient, View<float, 1> squared_norm, View<float, 1> workspace) {
  const int64_t n = gradient.dim(0);
  ATTNEDIT_CHECK(squared_norm.dim(0) == 1, "squared_norm", "squared_norm must have shape (1,), got ",
                 to_string(squared_norm.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= squared_norm_workspace(n), "squared_norm", "workspace must have ",
                 squared_norm_workspace(n), " floats or more, got ", workspace.dim(0));
  return [=] {
    parallel_for(chunks(n), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double part = ATTNEDIT_BEST(square)(gradient.data + i * kChunk, std::min(kChunk, n - i * kChunk));
        std::memcpy(workspace.data + 2 * i, &part, sizeof part);
      }
    });
    double total = squared_norm.data[0];
    for (int64_t i = 0; i < chunks(n); ++i) {
      double part;
      std::memcpy(&part, workspace.data + 2 * i, sizeof part);
      total += part;
    }
    squared_norm.data[0] = static_cast<float>(total);
  };
}

Task clip_scale(View<const float, 1> squared_norm, float limit, View<float, 1> scale) {
  ATTNEDIT_CHECK(squared_norm.dim(0) == 1, "clip_scale", "squared_norm must have shape (1,), got ",
                 to_string(squared_norm.shape));
  ATTNEDIT_CHECK(scale.dim(0) == 1, "clip_scale", "scale must have shape (1,), got ", to_string(scale.shape));
  ATTNEDIT_CHECK(limit > 0, "clip_scale", "limit must be positive, got ", limit);
  return [=] {
    const float ratio = limit / std::sqrt(squared_norm.data[0]);
    scale.data[0] = ratio > 1 ? 1 : ratio;  // a NaN stays one
  };
}

}  // namespace attnedit::kernels
#endif
