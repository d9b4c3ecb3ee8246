#include "simd/isa.h"

// Rows [begin, end) of the B * T rows of x (B,T,H,K); cos and sin point at the table's row for t = 0, half = P / 2.
ATTNEDIT_LOOPS(void rope_rows(const float* x, const float* cos, const float* sin, float direction, bool interleaved,
                              float* y, bool past_caches, int64_t T, int64_t H, int64_t K, int64_t offset, int64_t half,
                              int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

namespace {

template <bool kStream>
void rotate(const float* x, const float* cos, const float* sin, float direction, bool interleaved, float* y, int64_t T,
            int64_t H, int64_t K, int64_t offset, int64_t half, int64_t begin, int64_t end) {
  const int64_t behind = offset + 2 * half;
  for (int64_t n = begin; n < end; ++n) {
    const float* cos_t = cos + n % T * half;
    const float* sin_t = sin + n % T * half;
    for (int64_t h = 0; h < H; ++h) {
      const float* x_nh = x + (n * H + h) * K;
      float* y_nh = y + (n * H + h) * K;
      copy_row<kStream>(x_nh, y_nh, offset);
      rotate_row<kStream>(x_nh + offset, cos_t, sin_t, direction, interleaved, y_nh + offset, half);
      copy_row<kStream>(x_nh + behind, y_nh + behind, K - behind);
    }
  }
  if (kStream) end_stream();
}

}  // namespace

void rope_rows(const float* x, const float* cos, const float* sin, float direction, bool interleaved, float* y,
               bool past_caches, int64_t T, int64_t H, int64_t K, int64_t offset, int64_t half, int64_t begin,
               int64_t end) {
  (past_caches ? rotate<true> : rotate<false>)(x, cos, sin, direction, interleaved, y, T, H, K, offset, half, begin,
                                               end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/rope.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
namespace {

// The transposed rotation is the rotation by the negative angles.
Task rotate(const char* op, const char* out_name, View<const float, 4> x, View<const float, 2> cos,
            View<const float, 2> sin, int64_t start, int64_t offset, RopeLayout layout, float direction,
            View<float, 4> y) {
  const int64_t B = x.dim(0), T = x.dim(1), H = x.dim(2), K = x.dim(3), S = cos.dim(0), P = 2 * cos.dim(1);
  ATTNEDIT_CHECK(y.shape == x.shape, op, out_name, " must have shape ", to_string(x.shape), ", got ",
                 to_string(y.shape));
  ATTNEDIT_CHECK(sin.shape == cos.shape, op, "sin must have the shape of cos, ", to_string(cos.shape), ", got ",
                 to_string(sin.shape));
  ATTNEDIT_CHECK(start >= 0 && start <= S - T, op, "start must be in [0, ", S - T, "], for ", T, " of the ", S,
                 " table rows, got ", start);
  ATTNEDIT_CHECK(offset >= 0 && offset <= K - P, op, "offset must be in [0, ", K - P, "], for ", P, " of a head's ", K,
                 " dims, got ", offset);
  const bool interleaved = layout == RopeLayout::kInterleaved;
  // Of the tables only these positions' rows.
  Task task = [=] {
    const bool past_caches = simd::stores_past_caches(2 * x.size(), {y.data}, {offset, P, K});
    parallel_rows(B * T, H * K, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(rope_rows)
      (x.data, cos.data + start * P / 2, sin.data + start * P / 2, direction, interleaved, y.data, past_caches, T, H, K,
       offset, P / 2, begin, end);
    });
  };
  return std::move(task).moving(4.0 * (2 * x.size() + T * P));
}

}  // namespace

Task rope_forward(View<const float, 4> x, View<const float, 2> cos, View<const float, 2> sin, int64_t start,
                  int64_t offset, RopeLayout layout, View<float, 4> y) {
  return rotate("rope", "y", x, cos, sin, start, offset, layout, 1, y);
}

Task rope_backward(View<const float, 4> dy, View<const float, 2> cos, View<const float, 2> sin, int64_t start,
                   int64_t offset, RopeLayout layout, View<float, 4> dx) {
  return rotate("rope_backward", "dx", dy, cos, sin, start, offset, layout, -1, dx);
}

}  // namespace attnedit::kernels
#endif
