#include "simd/isa.h"

ATTNEDIT_LOOPS(void widen_numbers(const void* x, bool bfloat16, float* y, int64_t n);
               void column_sums(const float* rows, float* sums, int64_t N, int64_t O, int64_t begin, int64_t end);
               void add_rows(const float* bias, float* y, int64_t ldy, int64_t rows, int64_t columns);
               void few_rows_forward(const float* x, const void* weight, int storage, float* y, int64_t N, int64_t I,
                                     int64_t O, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/stored.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

constexpr int kRowsAtOnce = 4;

// Rows of x against row w: every sum is the same chain, however many rows are taken at once.
template <int Rows, class Stored>
void row_products(const float* x, const Stored* w, float* y, int64_t I, int64_t O) {
  Vec even[Rows] = {}, odd[Rows] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= I; i += 2 * kLanes) {
    const Vec w_even = numbers(w + i), w_odd = numbers(w + i + kLanes);
#pragma GCC unroll 4
    for (int n = 0; n < Rows; ++n) {
      even[n] += load(x + n * I + i) * w_even;
      odd[n] += load(x + n * I + i + kLanes) * w_odd;
    }
  }
  for (; i < I; i += kLanes) {
    const int64_t rest = I - i < kLanes ? I - i : kLanes;
    const Vec w_part = some_numbers(w + i, rest);
    for (int n = 0; n < Rows; ++n) even[n] += load_part(x + n * I + i, rest) * w_part;
  }
  for (int n = 0; n < Rows; ++n) y[n * O] = sum(even[n] + odd[n]);
}

template <class Stored>
void few_rows(const float* x, const Stored* weight, float* y, int64_t N, int64_t I, int64_t O, int64_t begin,
              int64_t end) {
  for (int64_t o = begin; o < end; ++o) {
    int64_t n = 0;
    for (; n + kRowsAtOnce <= N; n += kRowsAtOnce)
      row_products<kRowsAtOnce>(x + n * I, weight + o * I, y + n * O + o, I, O);
    for (; n < N; ++n) row_products<1>(x + n * I, weight + o * I, y + n * O + o, I, O);
  }
}

}  // namespace

void few_rows_forward(const float* x, const void* weight, int storage, float* y, int64_t N, int64_t I, int64_t O,
                      int64_t begin, int64_t end) {
  with_stored(weight, storage, [&](const auto* w) { few_rows(x, w, y, N, I, O, begin, end); });
}

void widen_numbers(const void* x, bool bfloat16, float* y, int64_t n) {
  bfloat16 ? widen_bfloat16(static_cast<const uint16_t*>(x), y, n)
           : widen_float16(static_cast<const uint16_t*>(x), y, n);
}

void column_sums(const float* rows, float* sums, int64_t N, int64_t O, int64_t begin, int64_t end) {
  for (int64_t n = 0; n < N; ++n)
    for (int64_t o = begin; o < end; ++o) sums[o] += rows[n * O + o];
}

void add_rows(const float* bias, float* y, int64_t ldy, int64_t rows, int64_t columns) {
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < columns; ++o) y[n * ldy + o] += bias[o];
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/gemm.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kReadWork = 1 << 17;  // multiply-adds that are worth a thread where memory is what they wait for
constexpr int64_t kFewRows = 8;         // up to here the weight's bytes are the cost, and packing would copy them

void check_workspace(const char* op, View<float, 1> workspace, int64_t N, int64_t I, int64_t O) {
  const int64_t floats = gemm_workspace(N, I, O);
  ATTNEDIT_CHECK(workspace.dim(0) >= floats, op, "workspace must have at least ", floats, " floats, got ",
                 workspace.dim(0));
}

void forward_few_rows(View<const float, 2> x, WeightView<2> weight, View<float, 2> y) {
  const int64_t N = x.dim(0), I = x.dim(1), O = y.dim(1);
  parallel_for(O, kReadWork / std::max<int64_t>(N * I, 1) + 1, [&](int64_t begin, int64_t end) {
    ATTNEDIT_BEST(few_rows_forward)
    (x.data, weight.data, static_cast<int>(weight.dtype), y.data, N, I, O, begin, end);
  });
}

}  // namespace

const float* widened_rows(WeightView<2> weight, int64_t begin, int64_t end, float* buffer) {
  if (weight.dtype == DType::kFloat32) return static_cast<const float*>(weight.row(begin));
  ATTNEDIT_BEST(widen_numbers)
  (weight.row(begin), weight.dtype == DType::kBFloat16, buffer, (end - begin) * weight.dim(1));
  return buffer;
}

void add_column_sums(View<const float, 2> rows, View<float, 1> sums) {
  const int64_t N = rows.dim(0), O = rows.dim(1);
  parallel_rows(O, N, [&](int64_t begin, int64_t end) {
    ATTNEDIT_BEST(column_sums)(rows.data, sums.data, N, O, begin, end);
  });
}

int64_t gemm_workspace(int64_t N, int64_t I, int64_t O) {
  return std::max({gemm_scratch(N, O, I), gemm_scratch(N, I, O), gemm_scratch(O, I, N)});
}

Task gemm_forward(View<const float, 2> x, WeightView<2> weight, View<const float, 1> bias, View<float, 2> y,
                  View<float, 1> workspace, Compute compute) {
  const int64_t N = x.dim(0), I = x.dim(1), O = weight.dim(0);
  ATTNEDIT_CHECK(weight.dim(1) == I, "gemm_forward", "weight must have shape (", O, ", ", I, "), got ",
                 to_string(weight.shape));
  ATTNEDIT_CHECK(!bias || bias.dim(0) == O, "gemm_forward", "bias must have shape (", O, ",), got ",
                 to_string(bias.shape));
  ATTNEDIT_CHECK((y.shape == std::array{N, O}), "gemm_forward", "y must have shape (", N, ", ", O, "), got ",
                 to_string(y.shape));
  check_workspace("gemm_forward", workspace, N, I, O);
  return Task([=] {
           if (N <= kFewRows)
             forward_few_rows(x, weight, y);
           else
             gemm(N, O, I, 1, {x.data, I, 1}, transposed_rows(weight, 0), compute, false, y.data, O, workspace.data);
           if (!bias) return;
           parallel_rows(N, O, [&](int64_t begin, int64_t end) {
             ATTNEDIT_BEST(add_rows)(bias.data, y.data + begin * O, O, end - begin, O);
           });
         })
      .needing(2.0 * N * I * O);
}

Task gemm_input_backward(View<const float, 2> dy, WeightView<2> weight, View<float, 2> dx, View<float, 1> workspace,
                         Compute compute) {
  const int64_t N = dy.dim(0), O = dy.dim(1), I = weight.dim(1);
  ATTNEDIT_CHECK(weight.dim(0) == O, "gemm_input_backward", "weight must have shape (", O, ", ", I, "), got ",
                 to_string(weight.shape));
  ATTNEDIT_CHECK((dx.shape == std::array{N, I}), "gemm_input_backward", "dx must have shape (", N, ", ", I, "), got ",
                 to_string(dx.shape));
  check_workspace("gemm_input_backward", workspace, N, I, O);
  return Task([=] {
           gemm(N, I, O, 1, {dy.data, O, 1}, plain_rows(weight, 0), compute, false, dx.data, I, workspace.data);
         })
      .needing(2.0 * N * I * O);
}

Task gemm_weight_backward(View<const float, 2> dy, View<const float, 2> x, View<float, 2> dweight, View<float, 1> dbias,
                          View<float, 1> workspace, Compute compute) {
  const int64_t N = x.dim(0), I = x.dim(1), O = dy.dim(1);
  ATTNEDIT_CHECK(dy.dim(0) == N, "gemm_weight_backward", "dy must have shape (", N, ", ", O, "), got ",
                 to_string(dy.shape));
  ATTNEDIT_CHECK((dweight.shape == std::array{O, I}), "gemm_weight_backward", "dweight must have shape (", O, ", ", I,
                 "), got ", to_string(dweight.shape));
  ATTNEDIT_CHECK(!dbias || dbias.dim(0) == O, "gemm_weight_backward", "dbias must have shape (", O, ",), got ",
                 to_string(dbias.shape));
  check_workspace("gemm_weight_backward", workspace, N, I, O);
  return Task([=] {
           gemm(O, I, N, 1, {dy.data, 1, O}, RightOperand::plain(x.data, I), compute, true, dweight.data, I,
                workspace.data);
           if (dbias) add_column_sums(dy, dbias);
         })
      .needing(2.0 * N * I * O);
}

Task gemm_bias_backward(View<const float, 2> dy, View<float, 1> dbias) {
  ATTNEDIT_CHECK(dbias.dim(0) == dy.dim(1), "gemm_bias_backward", "dbias must have shape (", dy.dim(1), ",), got ",
                 to_string(dbias.shape));
  return [=] { add_column_sums(dy, dbias); };
}

}  // namespace attnedit::kernels
#endif
