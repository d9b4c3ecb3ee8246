#ifndef ATTNEDIT_ISA
#include "kernels/grouped_gemm.h"

#include "kernels/gemm.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kColumns = 256;  // of an expert's product that one thread computes: the weight's part is packed once
constexpr int64_t kFewRows = 8;    // up to here gemm_forward reads the weight without packing it

int64_t floats_a_worker(int64_t I, int64_t O) {
  constexpr int64_t kManyRows = 1 << 20;
  return std::max({gemm_scratch(kManyRows, std::min(O, kColumns), I), gemm_scratch(kManyRows, std::min(I, kColumns), O),
                   gemm_workspace(kFewRows, I, O)});
}

void check_offsets(const char* op, View<const int32_t, 1> offsets, int64_t N) {
  const int64_t E = offsets.dim(0) - 1;
  bool ordered = offsets.data[0] == 0 && offsets.data[E] == N;
  for (int64_t e = 0; e < E; ++e) ordered = ordered && offsets.data[e] <= offsets.data[e + 1];
  ATTNEDIT_CHECK(ordered, op, "offsets must ascend from 0 to the number of rows, ", N);
}

// Checks what both directions share; I and O are the weights' own.
void check(const char* op, View<const int32_t, 1> offsets, const std::vector<WeightView<2>>& weights,
           View<float, 1> workspace) {
  ATTNEDIT_CHECK(!weights.empty(), op, "weights must be of one expert at least, got none");
  const int64_t E = static_cast<int64_t>(weights.size());
  ATTNEDIT_CHECK(offsets.dim(0) == E + 1, op, "offsets must have shape (", E + 1, ",), got ", to_string(offsets.shape));
  for (int64_t e = 0; e < E; ++e)
    ATTNEDIT_CHECK(weights[e].shape == weights[0].shape, op, "weights must have one shape ",
                   to_string(weights[0].shape), ", expert ", e, " has ", to_string(weights[e].shape));
  const int64_t floats = grouped_gemm_workspace(weights[0].dim(1), weights[0].dim(0));
  ATTNEDIT_CHECK(workspace.dim(0) >= floats, op, "workspace must have at least ", floats, " floats, got ",
                 workspace.dim(0));
}

// Rows there and back, and the weights of as many experts as N rows can have.
double moved(const std::vector<WeightView<2>>& weights, int64_t N) {
  const double O = static_cast<double>(weights[0].dim(0)), I = static_cast<double>(weights[0].dim(1));
  const int64_t experts = std::min<int64_t>(N, static_cast<int64_t>(weights.size()));
  return 4 * N * (I + O) + experts * I * O * size_of(weights[0].dtype);
}

// f(expert, first row, rows, first column, columns, scratch) for every block of every expert's product.
template <class F>
void each_block(View<const int32_t, 1> offsets, int64_t columns, int64_t floats, float* scratch, const F& f) {
  const int64_t blocks = parts_of(columns, kColumns);
  parallel_items((offsets.dim(0) - 1) * blocks, [&](int64_t item, int worker) {
    const int64_t e = item / blocks, j = item % blocks * kColumns, n = offsets.data[e];
    if (const int64_t rows = offsets.data[e + 1] - n; rows > 0)
      f(e, n, rows, j, std::min(kColumns, columns - j), scratch + worker * floats);
  });
}

}  // namespace

int64_t grouped_gemm_workspace(int64_t I, int64_t O) { return num_threads() * floats_a_worker(I, O); }

Task grouped_gemm_forward(View<const float, 2> x, View<const int32_t, 1> offsets, std::vector<WeightView<2>> weights,
                          View<float, 2> y, View<float, 1> workspace, Compute compute) {
  check("grouped_gemm", offsets, weights, workspace);
  const int64_t N = x.dim(0), O = weights[0].dim(0), I = weights[0].dim(1);
  ATTNEDIT_CHECK(x.dim(1) == I, "grouped_gemm", "x must have shape (", N, ", ", I, "), got ", to_string(x.shape));
  ATTNEDIT_CHECK((y.shape == std::array{N, O}), "grouped_gemm", "y must have shape (", N, ", ", O, "), got ",
                 to_string(y.shape));
  return Task([=] {
           check_offsets("grouped_gemm", offsets, N);
           const auto few_rows = [&](int64_t n, int64_t rows, int64_t e, float* scratch) {
             gemm_forward({x.data + n * I, {rows, I}}, weights[e], {}, {y.data + n * O, {rows, O}},
                          {scratch, {floats_a_worker(I, O)}}, compute)();
           };
           each_block(offsets, O, floats_a_worker(I, O), workspace.data,
                      [&](int64_t e, int64_t n, int64_t rows, int64_t j, int64_t columns, float* scratch) {
                        if (rows <= kFewRows) {
                          if (j == 0) few_rows(n, rows, e, scratch);
                          return;
                        }
                        gemm(rows, columns, I, 1, {x.data + n * I, I, 1}, transposed_rows(weights[e], j), compute,
                             false, y.data + n * O + j, O, scratch);
                      });
         })
      .needing(2.0 * N * I * O)
      .moving(moved(weights, N));
}

Task grouped_gemm_input_backward(View<const float, 2> dy, View<const int32_t, 1> offsets,
                                 std::vector<WeightView<2>> weights, bool accumulate, View<float, 2> dx,
                                 View<float, 1> workspace, Compute compute) {
  check("grouped_gemm_backward", offsets, weights, workspace);
  const int64_t N = dy.dim(0), O = weights[0].dim(0), I = weights[0].dim(1);
  ATTNEDIT_CHECK(dy.dim(1) == O, "grouped_gemm_backward", "dy must have shape (", N, ", ", O, "), got ",
                 to_string(dy.shape));
  ATTNEDIT_CHECK((dx.shape == std::array{N, I}), "grouped_gemm_backward", "dx must have shape (", N, ", ", I, "), got ",
                 to_string(dx.shape));
  return Task([=] {
           check_offsets("grouped_gemm_backward", offsets, N);
           each_block(offsets, I, floats_a_worker(I, O), workspace.data,
                      [&](int64_t e, int64_t n, int64_t rows, int64_t i, int64_t columns, float* scratch) {
                        RightOperand b = plain_rows(weights[e], 0);
                        b.data = static_cast<const char*>(b.data) + i * size_of(b.dtype);
                        gemm(rows, columns, O, 1, {dy.data + n * O, O, 1}, b, compute, accumulate, dx.data + n * I + i,
                             I, scratch);
                      });
         })
      .needing(2.0 * N * I * O)
      .moving(moved(weights, N));
}

}  // namespace attnedit::kernels
#endif
