#include "simd/isa.h"

// storage: 0 float32, 1 bfloat16, 2 float16. One head; its weight's rows are R numbers; N rows of x and y, row and
// y_row apart.
ATTNEDIT_LOOPS(
    // y (N, columns [begin, end) of R) = x (N, Kn) weight (Kn, R)
    void absorb_query(const float* x, int64_t row, const void* weight, int storage, float* y, int64_t y_row, int64_t N,
                      int64_t Kn, int64_t R, int64_t begin, int64_t end);
    // y (N, rows [begin, end) of the weight) = x (N, R) weight^T
    void absorb_value(const float* x, int64_t row, const void* weight, int storage, float* y, int64_t y_row, int64_t N,
                      int64_t R, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/stored.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

constexpr int kRowsAtOnce = 8;  // of the weight: streams that the processor's prefetching follows

// y += Rows numbers of x times as many rows of the weight: every number of y is one chain in ascending rows.
template <int Rows, class Stored>
void add_rows_times(const float* x, const Stored* w, float* y, int64_t R, int64_t n) {
  int64_t r = 0;
  for (; r + kLanes <= n; r += kLanes) {
    Vec total = load(y + r);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) total += x[i] * numbers(w + i * R + r);
    store(y + r, total);
  }
  if (r == n) return;
  Vec total = load_part(y + r, n - r);
  for (int i = 0; i < Rows; ++i) total += x[i] * some_numbers(w + i * R + r, n - r);
  store_part(y + r, total, n - r);
}

template <class Stored>
void query(const float* x, int64_t row, const Stored* w, float* y, int64_t y_row, int64_t N, int64_t Kn, int64_t R,
           int64_t begin, int64_t end) {
  for (int64_t n = 0; n < N; ++n)
    for (int64_t r = begin; r < end; ++r) y[n * y_row + r] = 0;
  for (int64_t k = 0, rows; k < Kn; k += rows) {
    rows = Kn - k >= kRowsAtOnce ? kRowsAtOnce : 1;
    const auto add = rows == 1 ? &add_rows_times<1, Stored> : &add_rows_times<kRowsAtOnce, Stored>;
    for (int64_t n = 0; n < N; ++n) add(x + n * row + k, w + k * R + begin, y + n * y_row + begin, R, end - begin);
  }
}

template <class Stored>
float product(const float* x, const Stored* w, int64_t R) {
  Vec even{}, odd{};
  int64_t r = 0;
  for (; r + 2 * kLanes <= R; r += 2 * kLanes) {
    even += load(x + r) * numbers(w + r);
    odd += load(x + r + kLanes) * numbers(w + r + kLanes);
  }
  for (; r < R; r += kLanes) {
    const int64_t rest = R - r < kLanes ? R - r : kLanes;
    even += load_part(x + r, rest) * some_numbers(w + r, rest);
  }
  return sum(even + odd);
}

template <class Stored>
void value(const float* x, int64_t row, const Stored* w, float* y, int64_t y_row, int64_t N, int64_t R, int64_t begin,
           int64_t end) {
  for (int64_t v = begin; v < end; ++v)
    for (int64_t n = 0; n < N; ++n) y[n * y_row + v] = product(x + n * row, w + v * R, R);
}

}  // namespace

void absorb_query(const float* x, int64_t row, const void* weight, int storage, float* y, int64_t y_row, int64_t N,
                  int64_t Kn, int64_t R, int64_t begin, int64_t end) {
  with_stored(weight, storage, [&](const auto* w) { query(x, row, w, y, y_row, N, Kn, R, begin, end); });
}

void absorb_value(const float* x, int64_t row, const void* weight, int storage, float* y, int64_t y_row, int64_t N,
                  int64_t R, int64_t begin, int64_t end) {
  with_stored(weight, storage, [&](const auto* w) { value(x, row, w, y, y_row, N, R, begin, end); });
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cstring>

#include "kernels/mla_absorb.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kSerialWork = 1 << 16;  // multiply-adds below which a second thread does not pay
constexpr int64_t kColumns = 256;         // of a head's q_latent that one worker computes
constexpr int64_t kRows = 32;             // of a head's W_uv that one worker reads

void check_weight(const char* op, WeightView<2> kv_b, int64_t H, int64_t R, int64_t least) {
  const int64_t per_head = H ? kv_b.dim(0) / H : 0;
  ATTNEDIT_CHECK(H > 0 && per_head * H == kv_b.dim(0) && per_head > least && kv_b.dim(1) == R, op,
                 "kv_b must have shape (", H, " heads * more than ", least, ", ", R, "), got ", to_string(kv_b.shape));
}

}  // namespace

Task mla_absorb_query(View<const float, 3> q, WeightView<2> kv_b, View<float, 3> q_latent, View<float, 3> q_rope) {
  const char* op = "mla_absorb_query";
  const int64_t N = q.dim(0), H = q.dim(1), R = q_latent.dim(2), P = q_rope.dim(2), Kn = q.dim(2) - P;
  ATTNEDIT_CHECK(Kn > 0 && q_rope.dim(0) == N && q_rope.dim(1) == H, op, "q_rope must have shape (", N, ", ", H,
                 ", less than ", q.dim(2), "), got ", to_string(q_rope.shape));
  ATTNEDIT_CHECK(q_latent.dim(0) == N && q_latent.dim(1) == H, op, "q_latent must have shape (", N, ", ", H,
                 ", R), got ", to_string(q_latent.shape));
  check_weight(op, kv_b, H, R, Kn);
  return Task([=] {
           const int64_t parts = parts_of(R, kColumns), rows = kv_b.dim(0) / H;
           parallel_for(H * parts, kSerialWork / std::max<int64_t>(N * Kn * kColumns, 1) + 1,
                        [&](int64_t first, int64_t last) {
                          for (int64_t i = first; i < last; ++i) {
                            const int64_t h = i / parts, begin = i % parts * kColumns;
                            ATTNEDIT_BEST(absorb_query)
                            (q.data + h * (Kn + P), H * (Kn + P), kv_b.row(h * rows), static_cast<int>(kv_b.dtype),
                             q_latent.data + h * R, H * R, N, Kn, R, begin, std::min(R, begin + kColumns));
                          }
                        });
           for (int64_t i = 0; i < N * H && P > 0; ++i)
             std::memcpy(q_rope.data + i * P, q.data + i * (Kn + P) + Kn, P * sizeof(float));
         })
      .needing(2.0 * N * H * Kn * R);
}

Task mla_absorb_value(View<const float, 3> o_latent, WeightView<2> kv_b, View<float, 3> o) {
  const char* op = "mla_absorb_value";
  const int64_t N = o_latent.dim(0), H = o_latent.dim(1), R = o_latent.dim(2), Kv = o.dim(2);
  ATTNEDIT_CHECK(o.dim(0) == N && o.dim(1) == H, op, "o must have shape (", N, ", ", H, ", Kv), got ",
                 to_string(o.shape));
  check_weight(op, kv_b, H, R, Kv);
  return Task([=] {
           const int64_t parts = parts_of(Kv, kRows), rows = kv_b.dim(0) / H;
           parallel_for(H * parts, kSerialWork / std::max<int64_t>(N * kRows * R, 1) + 1,
                        [&](int64_t first, int64_t last) {
                          for (int64_t i = first; i < last; ++i) {
                            const int64_t h = i / parts, begin = i % parts * kRows;
                            ATTNEDIT_BEST(absorb_value)
                            (o_latent.data + h * R, H * R, kv_b.row(h * rows + rows - Kv), static_cast<int>(kv_b.dtype),
                             o.data + h * Kv, H * Kv, N, R, begin, std::min(Kv, begin + kRows));
                          }
                        });
         })
      .needing(2.0 * N * H * Kv * R);
}

}  // namespace attnedit::kernels
#endif
