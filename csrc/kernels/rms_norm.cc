#include "simd/isa.h"

// Rows [begin, end) of x (.,D), or columns [begin, end) for the weight's gradient.
ATTNEDIT_LOOPS(void norm_rows(const float* x, const float* weight, float eps, float* y, float* rstd, int64_t D,
                              int64_t begin, int64_t end);
               void norm_rows_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                                       float* dx, int64_t D, int64_t begin, int64_t end);
               void norm_weight_backward(const float* dy, const float* x, const float* rstd, float* dweight, int64_t N,
                                         int64_t D, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

void norm_rows(const float* x, const float* weight, float eps, float* y, float* rstd, int64_t D, int64_t begin,
               int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* x_n = x + n * D;
    float* y_n = y + n * D;
    Vec squares{};
    int64_t d = 0;
    for (; d + kLanes <= D; d += kLanes) squares += load(x_n + d) * load(x_n + d);
    if (d < D) {
      const Vec rest = load_part(x_n + d, D - d);
      squares += rest * rest;
    }
    const float r = 1.f / std::sqrt(sum(squares) / static_cast<float>(D) + eps);
    for (d = 0; d < D; ++d) y_n[d] = x_n[d] * r * weight[d];
    rstd[n] = r;
  }
}

// dx = rstd * (g - x * rstd^2 * mean(g * x)),   g = dy * weight
void norm_rows_backward(const float* dy, const float* x, const float* weight, const float* rstd, float* dx, int64_t D,
                        int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* x_n = x + n * D;
    const float* dy_n = dy + n * D;
    float* dx_n = dx + n * D;
    Vec products{};
    int64_t d = 0;
    for (; d + kLanes <= D; d += kLanes) products += load(dy_n + d) * load(weight + d) * load(x_n + d);
    if (d < D) products += load_part(dy_n + d, D - d) * load_part(weight + d, D - d) * load_part(x_n + d, D - d);
    const float r = rstd[n];
    const float c = sum(products) / static_cast<float>(D) * r * r;
    for (d = 0; d < D; ++d) dx_n[d] = r * (dy_n[d] * weight[d] - x_n[d] * c);
  }
}

void norm_weight_backward(const float* dy, const float* x, const float* rstd, float* dweight, int64_t N, int64_t D,
                          int64_t begin, int64_t end) {
  for (int64_t n = 0; n < N; ++n)
    for (int64_t d = begin; d < end; ++d) dweight[d] += dy[n * D + d] * x[n * D + d] * rstd[n];
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/rms_norm.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {
constexpr int64_t kGrain = 1 << 15;  // numbers that are worth a second thread
int64_t rows_per_grain(int64_t D) { return kGrain / std::max<int64_t>(D, 1) + 1; }
}  // namespace

Task rms_norm_forward(View<const float, 2> x, View<const float, 1> weight, float eps, View<float, 2> y,
                      View<float, 1> rstd) {
  const int64_t N = x.dim(0), D = x.dim(1);
  ATTNEDIT_CHECK(weight.dim(0) == D, "rms_norm", "weight must have shape (", D, ",), got ", to_string(weight.shape));
  ATTNEDIT_CHECK(y.shape == x.shape, "rms_norm", "y must have shape ", to_string(x.shape), ", got ",
                 to_string(y.shape));
  ATTNEDIT_CHECK(rstd.dim(0) == N, "rms_norm", "rstd must have shape (", N, ",), got ", to_string(rstd.shape));
  return [=] {
    parallel_for(N, rows_per_grain(D), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(norm_rows)(x.data, weight.data, eps, y.data, rstd.data, D, begin, end);
    });
  };
}

Task rms_norm_backward(View<const float, 2> dy, View<const float, 2> x, View<const float, 1> weight,
                       View<const float, 1> rstd, View<float, 2> dx, View<float, 1> dweight) {
  const int64_t N = x.dim(0), D = x.dim(1);
  ATTNEDIT_CHECK(dy.shape == x.shape, "rms_norm_backward", "dy must have shape ", to_string(x.shape), ", got ",
                 to_string(dy.shape));
  ATTNEDIT_CHECK(dx.shape == x.shape, "rms_norm_backward", "dx must have shape ", to_string(x.shape), ", got ",
                 to_string(dx.shape));
  ATTNEDIT_CHECK(weight.dim(0) == D, "rms_norm_backward", "weight must have shape (", D, ",), got ",
                 to_string(weight.shape));
  ATTNEDIT_CHECK(rstd.dim(0) == N, "rms_norm_backward", "rstd must have shape (", N, ",), got ", to_string(rstd.shape));
  ATTNEDIT_CHECK(!dweight || dweight.dim(0) == D, "rms_norm_backward", "dweight must have shape (", D, ",), got ",
                 to_string(dweight.shape));
  return [=] {
    parallel_for(N, rows_per_grain(D), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(norm_rows_backward)(dy.data, x.data, weight.data, rstd.data, dx.data, D, begin, end);
    });
    if (!dweight) return;
    // Each thread owns columns, so that the order of the sum never depends on threads.
    parallel_for(D, rows_per_grain(N), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(norm_weight_backward)(dy.data, x.data, rstd.data, dweight.data, N, D, begin, end);
    });
  };
}

}  // namespace attnedit::kernels
#endif
