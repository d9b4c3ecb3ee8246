#include "simd/isa.h"

// Rows [begin, end) of the B * T rows; cos and sin point at the table's row for t = 0. dweight (R), which may be null,
// is overwritten with the sum over these rows.
ATTNEDIT_LOOPS(void compress_rows(const float* kv_a, const float* weight, float eps, const float* cos, const float* sin,
                                  float* latent, float* rstd, float* k_rope, bool past_caches, int64_t T, int64_t R,
                                  int64_t P, int64_t begin, int64_t end);
               void compress_rows_backward(const float* dlatent, const float* dk_rope, const float* kv_a,
                                           const float* weight, const float* rstd, const float* cos, const float* sin,
                                           float* dkv_a, float* dweight, bool past_caches, int64_t T, int64_t R,
                                           int64_t P, int64_t begin, int64_t end);
               void expand_rows(const float* kv, const float* k_rope, float* k, float* v, bool past_caches, int64_t H,
                                int64_t Kn, int64_t Kv, int64_t P, int64_t begin, int64_t end);
               void expand_rows_backward(const float* dk, const float* dv, float* dkv, float* dk_rope, bool past_caches,
                                         int64_t H, int64_t Kn, int64_t Kv, int64_t P, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

template <bool kStream>
void compress(const float* kv_a, const float* weight, float eps, const float* cos, const float* sin, float* latent,
              float* rstd, float* k_rope, int64_t T, int64_t R, int64_t P, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* x_n = kv_a + n * (R + P);
    rstd[n] = reciprocal_rms(x_n, eps, R);
    scale_row<kStream>(x_n, R + P, weight, rstd[n], latent + n * R, R);
    const int64_t t = n % T;
    rotate_row<kStream>(x_n + R, cos + t * P / 2, sin + t * P / 2, 1, true, k_rope + n * P, P / 2);
  }
  if (kStream) end_stream();
}

template <bool kStream, bool kWeight>
void compress_backward(const float* dlatent, const float* dk_rope, const float* kv_a, const float* weight,
                       const float* rstd, const float* cos, const float* sin, float* dkv_a, float* dweight, int64_t T,
                       int64_t R, int64_t P, int64_t begin, int64_t end) {
  if (kWeight) std::memset(dweight, 0, R * sizeof(float));
  for (int64_t n = begin; n < end; ++n) {
    float* dx_n = dkv_a + n * (R + P);
    norm_row_backward<kStream, kWeight>(dlatent + n * R, R, kv_a + n * (R + P), R + P, weight, rstd[n], dx_n, dweight,
                                        R);
    const int64_t t = n % T;
    rotate_row<kStream>(dk_rope + n * P, cos + t * P / 2, sin + t * P / 2, -1, true, dx_n + R, P / 2);
  }
  if (kStream) end_stream();
}

template <bool kStream>
void expand(const float* kv, const float* k_rope, float* k, float* v, int64_t H, int64_t Kn, int64_t Kv, int64_t P,
            int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    for (int64_t h = n * H; h < (n + 1) * H; ++h) {
      copy_row<kStream>(kv + h * (Kn + Kv), k + h * (Kn + P), Kn);
      copy_row<kStream>(k_rope + n * P, k + h * (Kn + P) + Kn, P);
      copy_row<kStream>(kv + h * (Kn + Kv) + Kn, v + h * Kv, Kv);
    }
  if (kStream) end_stream();
}

template <bool kStream>
void expand_backward(const float* dk, const float* dv, float* dkv, float* dk_rope, int64_t H, int64_t Kn, int64_t Kv,
                     int64_t P, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    float* dk_rope_n = dk_rope + n * P;
    for (int64_t p = 0; p < P; ++p) dk_rope_n[p] = 0;
    for (int64_t h = n * H; h < (n + 1) * H; ++h) {
      const float* dk_h = dk + h * (Kn + P);
      copy_row<kStream>(dk_h, dkv + h * (Kn + Kv), Kn);
      copy_row<kStream>(dv + h * Kv, dkv + h * (Kn + Kv) + Kn, Kv);
      for (int64_t p = 0; p < P; ++p) dk_rope_n[p] += dk_h[Kn + p];
    }
  }
  if (kStream) end_stream();
}

}  // namespace

void compress_rows(const float* kv_a, const float* weight, float eps, const float* cos, const float* sin, float* latent,
                   float* rstd, float* k_rope, bool past_caches, int64_t T, int64_t R, int64_t P, int64_t begin,
                   int64_t end) {
  (past_caches ? compress<true> : compress<false>)(kv_a, weight, eps, cos, sin, latent, rstd, k_rope, T, R, P, begin,
                                                   end);
}

void compress_rows_backward(const float* dlatent, const float* dk_rope, const float* kv_a, const float* weight,
                            const float* rstd, const float* cos, const float* sin, float* dkv_a, float* dweight,
                            bool past_caches, int64_t T, int64_t R, int64_t P, int64_t begin, int64_t end) {
  const auto plain = dweight ? compress_backward<false, true> : compress_backward<false, false>;
  const auto streaming = dweight ? compress_backward<true, true> : compress_backward<true, false>;
  (past_caches ? streaming : plain)(dlatent, dk_rope, kv_a, weight, rstd, cos, sin, dkv_a, dweight, T, R, P, begin,
                                    end);
}

void expand_rows(const float* kv, const float* k_rope, float* k, float* v, bool past_caches, int64_t H, int64_t Kn,
                 int64_t Kv, int64_t P, int64_t begin, int64_t end) {
  (past_caches ? expand<true> : expand<false>)(kv, k_rope, k, v, H, Kn, Kv, P, begin, end);
}

void expand_rows_backward(const float* dk, const float* dv, float* dkv, float* dk_rope, bool past_caches, int64_t H,
                          int64_t Kn, int64_t Kv, int64_t P, int64_t begin, int64_t end) {
  (past_caches ? expand_backward<true> : expand_backward<false>)(dk, dv, dkv, dk_rope, H, Kn, Kv, P, begin, end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>

#include "kernels/gemm.h"
#include "kernels/mla_projection.h"
#include "kernels/row_blocks.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"
#include "tensor/check_shape.h"

namespace attnedit::kernels {
namespace {

void check_compress(const char* op, View<const float, 3> kv_a, int64_t R, View<const float, 2> cos,
                    View<const float, 2> sin, int64_t start) {
  const int64_t T = kv_a.dim(1), S = cos.dim(0), P = 2 * cos.dim(1);
  check_shape(op, "kv_a", kv_a, {kv_a.dim(0), T, R + P});
  check_shape(op, "sin", sin, cos.shape);
  ATTNEDIT_CHECK(start >= 0 && start <= S - T, op, "start must be in [0, ", S - T, "], for ", T, " of the ", S,
                 " table rows, got ", start);
}

}  // namespace

Task mla_compress_forward(View<const float, 3> kv_a, View<const float, 1> weight, float eps, View<const float, 2> cos,
                          View<const float, 2> sin, int64_t start, View<float, 3> latent, View<float, 2> rstd,
                          View<float, 3> k_rope) {
  const char* op = "mla_compress";
  const int64_t B = kv_a.dim(0), T = kv_a.dim(1), R = weight.dim(0), P = 2 * cos.dim(1);
  check_compress(op, kv_a, R, cos, sin, start);
  check_shape(op, "latent", latent, {B, T, R});
  check_shape(op, "rstd", rstd, {B, T});
  check_shape(op, "k_rope", k_rope, {B, T, P});
  ATTNEDIT_CHECK(eps >= 0 && std::isfinite(eps), op, "eps must be 0 or more and finite, got ", eps);
  Task task = [=] {
    const bool past_caches = simd::stores_past_caches(2 * kv_a.size(), {latent.data, k_rope.data}, {R, P});
    parallel_rows(B * T, R + P, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(compress_rows)
      (kv_a.data, weight.data, eps, cos.data + start * P / 2, sin.data + start * P / 2, latent.data, rstd.data,
       k_rope.data, past_caches, T, R, P, begin, end);
    });
  };
  return std::move(task).moving(4.0 * (2 * kv_a.size() + T * P));
}

int64_t mla_compress_workspace(int64_t N, int64_t R) { return row_blocks(N) * R; }

Task mla_compress_backward(View<const float, 3> dlatent, View<const float, 3> dk_rope, View<const float, 3> kv_a,
                           View<const float, 1> weight, View<const float, 2> rstd, View<const float, 2> cos,
                           View<const float, 2> sin, int64_t start, View<float, 3> dkv_a, View<float, 1> dweight,
                           View<float, 1> workspace) {
  const char* op = "mla_compress_backward";
  const int64_t B = kv_a.dim(0), T = kv_a.dim(1), R = weight.dim(0), P = 2 * cos.dim(1);
  check_compress(op, kv_a, R, cos, sin, start);
  check_shape(op, "dlatent", dlatent, {B, T, R});
  check_shape(op, "dk_rope", dk_rope, {B, T, P});
  check_shape(op, "rstd", rstd, {B, T});
  check_shape(op, "dkv_a", dkv_a, kv_a.shape);
  if (dweight) check_shape(op, "dweight", dweight, {R});
  ATTNEDIT_CHECK(!dweight || workspace.dim(0) >= mla_compress_workspace(B * T, R), op, "workspace must have ",
                 mla_compress_workspace(B * T, R), " floats or more, got ", workspace.dim(0));
  Task task = [=] {
    const bool past_caches = simd::stores_past_caches(3 * kv_a.size(), {dkv_a.data}, {R, P});
    const auto rows = [&](int64_t begin, int64_t end, float* sums) {
      ATTNEDIT_BEST(compress_rows_backward)
      (dlatent.data, dk_rope.data, kv_a.data, weight.data, rstd.data, cos.data + start * P / 2,
       sin.data + start * P / 2, dkv_a.data, sums, past_caches, T, R, P, begin, end);
    };
    if (dweight) {
      parallel_row_blocks(
          B * T, [&](int64_t block, int64_t begin, int64_t end) { rows(begin, end, workspace.data + block * R); });
      add_column_sums({workspace.data, {row_blocks(B * T), R}}, dweight);
    } else {
      parallel_rows(B * T, R + P, [&](int64_t begin, int64_t end) { rows(begin, end, nullptr); });
    }
  };
  return std::move(task).moving(4.0 * (3 * kv_a.size() + T * P));
}

Task mla_expand_forward(View<const float, 4> kv, View<const float, 3> k_rope, View<float, 4> k, View<float, 4> v) {
  const char* op = "mla_expand";
  const int64_t B = kv.dim(0), T = kv.dim(1), H = kv.dim(2), Kv = v.dim(3), Kn = kv.dim(3) - Kv, P = k_rope.dim(2);
  ATTNEDIT_CHECK(Kn >= 0, op, "v must have ", kv.dim(3), " columns or fewer, as kv has, got ", Kv);
  check_shape(op, "k_rope", k_rope, {B, T, P});
  check_shape(op, "k", k, {B, T, H, Kn + P});
  check_shape(op, "v", v, {B, T, H, Kv});
  return [=] {
    const bool past_caches = simd::stores_past_caches(kv.size() + k.size() + v.size(), {k.data, v.data}, {Kn, Kv, P});
    parallel_rows(B * T, H * (Kn + Kv + P), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(expand_rows)(kv.data, k_rope.data, k.data, v.data, past_caches, H, Kn, Kv, P, begin, end);
    });
  };
}

Task mla_expand_backward(View<const float, 4> dk, View<const float, 4> dv, View<float, 4> dkv, View<float, 3> dk_rope) {
  const char* op = "mla_expand_backward";
  const int64_t B = dkv.dim(0), T = dkv.dim(1), H = dkv.dim(2), Kv = dv.dim(3), Kn = dkv.dim(3) - Kv,
                P = dk_rope.dim(2);
  ATTNEDIT_CHECK(Kn >= 0, op, "dv must have ", dkv.dim(3), " columns or fewer, as dkv has, got ", Kv);
  check_shape(op, "dk", dk, {B, T, H, Kn + P});
  check_shape(op, "dv", dv, {B, T, H, Kv});
  check_shape(op, "dk_rope", dk_rope, {B, T, P});
  return [=] {
    const bool past_caches = simd::stores_past_caches(dk.size() + dv.size() + dkv.size(), {dkv.data}, {Kn, Kv});
    parallel_rows(B * T, H * (Kn + Kv + P), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(expand_rows_backward)
      (dk.data, dv.data, dkv.data, dk_rope.data, past_caches, H, Kn, Kv, P, begin, end);
    });
  };
}

}  // namespace attnedit::kernels
#endif
