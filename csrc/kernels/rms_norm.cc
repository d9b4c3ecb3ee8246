#include "simd/isa.h"

// Rows [begin, end) of x (.,D). dweight (D), which may be null, is overwritten with the sum over these rows.
ATTNEDIT_LOOPS(void norm_rows(const float* x, const float* weight, float eps, float* y, float* rstd, bool past_caches,
                              int64_t D, int64_t begin, int64_t end);
               void norm_rows_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                                       float* dx, float* dweight, bool past_caches, int64_t D, int64_t begin,
                                       int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

template <bool kStream>
void forward(const float* x, const float* weight, float eps, float* y, float* rstd, int64_t D, int64_t begin,
             int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    rstd[n] = reciprocal_rms(x + n * D, eps, D);
    scale_row<kStream>(x + n * D, D, weight, rstd[n], y + n * D, D);
  }
  if (kStream) end_stream();
}

template <bool kStream, bool kWeight>
void backward(const float* dy, const float* x, const float* weight, const float* rstd, float* dx, float* dweight,
              int64_t D, int64_t begin, int64_t end) {
  if (kWeight) std::memset(dweight, 0, D * sizeof(float));
  for (int64_t n = begin; n < end; ++n)
    norm_row_backward<kStream, kWeight>(dy + n * D, D, x + n * D, D, weight, rstd[n], dx + n * D, dweight, D);
  if (kStream) end_stream();
}

}  // namespace

void norm_rows(const float* x, const float* weight, float eps, float* y, float* rstd, bool past_caches, int64_t D,
               int64_t begin, int64_t end) {
  (past_caches ? forward<true> : forward<false>)(x, weight, eps, y, rstd, D, begin, end);
}

void norm_rows_backward(const float* dy, const float* x, const float* weight, const float* rstd, float* dx,
                        float* dweight, bool past_caches, int64_t D, int64_t begin, int64_t end) {
  const auto plain = dweight ? backward<false, true> : backward<false, false>;
  const auto streaming = dweight ? backward<true, true> : backward<true, false>;
  (past_caches ? streaming : plain)(dy, x, weight, rstd, dx, dweight, D, begin, end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>

#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/row_blocks.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
Task rms_norm_forward(View<const float, 2> x, View<const float, 1> weight, float eps, View<float, 2> y,
                      View<float, 1> rstd) {
  const int64_t N = x.dim(0), D = x.dim(1);
  ATTNEDIT_CHECK(weight.dim(0) == D, "rms_norm", "weight must have shape (", D, ",), got ", to_string(weight.shape));
  ATTNEDIT_CHECK(y.shape == x.shape, "rms_norm", "y must have shape ", to_string(x.shape), ", got ",
                 to_string(y.shape));
  ATTNEDIT_CHECK(rstd.dim(0) == N, "rms_norm", "rstd must have shape (", N, ",), got ", to_string(rstd.shape));
  ATTNEDIT_CHECK(eps >= 0 && std::isfinite(eps), "rms_norm", "eps must be 0 or more and finite, got ", eps);
  return [=] {
    const bool past_caches = simd::stores_past_caches(2 * N * D, {y.data}, {D});
    parallel_rows(N, D, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(norm_rows)(x.data, weight.data, eps, y.data, rstd.data, past_caches, D, begin, end);
    });
  };
}

int64_t rms_norm_workspace(int64_t N, int64_t D) { return row_blocks(N) * D; }

Task rms_norm_backward(View<const float, 2> dy, View<const float, 2> x, View<const float, 1> weight,
                       View<const float, 1> rstd, View<float, 2> dx, View<float, 1> dweight, View<float, 1> workspace) {
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
  ATTNEDIT_CHECK(!dweight || workspace.dim(0) >= rms_norm_workspace(N, D), "rms_norm_backward", "workspace must have ",
                 rms_norm_workspace(N, D), " floats or more, got ", workspace.dim(0));
  return [=] {
    const bool past_caches = simd::stores_past_caches(3 * N * D, {dx.data}, {D});
    const auto backward = ATTNEDIT_BEST(norm_rows_backward);
    if (dweight) {
      parallel_row_blocks(N, [&](int64_t block, int64_t begin, int64_t end) {
        backward(dy.data, x.data, weight.data, rstd.data, dx.data, workspace.data + block * D, past_caches, D, begin,
                 end);
      });
      add_column_sums({workspace.data, {row_blocks(N), D}}, dweight);
    } else {
      parallel_rows(N, D, [&](int64_t begin, int64_t end) {
        backward(dy.data, x.data, weight.data, rstd.data, dx.data, nullptr, past_caches, D, begin, end);
      });
    }
  };
}

}  // namespace attnedit::kernels
#endif
