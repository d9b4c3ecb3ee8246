#pragma once

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// The three products of a linear layer y = x weight^T, float32 sums.
//   x (N,I)   weight (O,I), float32, bfloat16 or float16   y, dy (N,O)   workspace in floats, one size for all three
int64_t gemm_workspace(int64_t N, int64_t I, int64_t O);

// y = x weight^T (+ bias (O), which may be absent)
Task gemm_forward(View<const float, 2> x, WeightView<2> weight, View<const float, 1> bias, View<float, 2> y,
                  View<float, 1> workspace, Compute compute = Compute::kFloat32);

// dx = dy weight, overwritten.
Task gemm_input_backward(View<const float, 2> dy, WeightView<2> weight, View<float, 2> dx, View<float, 1> workspace,
                         Compute compute = Compute::kFloat32);

// dweight += dy^T x;  dbias += the column sums of dy, if present.
Task gemm_weight_backward(View<const float, 2> dy, View<const float, 2> x, View<float, 2> dweight, View<float, 1> dbias,
                          View<float, 1> workspace, Compute compute = Compute::kFloat32);

// dbias (O) += the column sums of dy, for a bias that trains under a frozen weight.
Task gemm_bias_backward(View<const float, 2> dy, View<float, 1> dbias);

// The product of two matrices that other kernels are made of:  C (m,n) = alpha A B, or C += alpha A B.
// Both operands are first copied ("packed") into the order in which the register tiles read them, once for all
// threads; stored weights are widened on the way. Blocks depend on shapes only, and every element of C is one chain of
// multiply-adds in ascending k: any number of threads gives the same bits.

// A(i, k) = data[i * row + k * column]; one of the strides is 1.
struct LeftOperand {
  const float* data;
  int64_t row, column;
};
// B(k, j) = data[k * row + j * column], counted in numbers of the storage type; one of the strides is 1.
struct RightOperand {
  const void* data;
  DType dtype;
  int64_t row, column;

  static RightOperand plain(const float* data, int64_t row) { return {data, DType::kFloat32, row, 1}; }
  static RightOperand transposed(const float* data, int64_t row) { return {data, DType::kFloat32, 1, row}; }
};

// Rows [begin, ...) of a weight W as the right operand of x W^T, and of y W.
RightOperand transposed_rows(WeightView<2> weight, int64_t begin);
RightOperand plain_rows(WeightView<2> weight, int64_t begin);

int64_t gemm_scratch(int64_t m, int64_t n, int64_t k);
void gemm(int64_t m, int64_t n, int64_t k, float alpha, LeftOperand a, RightOperand b, Compute compute, bool accumulate,
          float* c, int64_t ldc, float* scratch);

// The two steps one by one, for a caller that uses a packed operand several times. All three are told the same compute;
// sizes are in floats and enough for either.
int64_t packed_left_size(int64_t m, int64_t k);
int64_t packed_right_size(int64_t n, int64_t k);
void pack_left(int64_t m, int64_t k, float alpha, LeftOperand a, Compute compute, float* packed);
void pack_right(int64_t n, int64_t k, RightOperand b, Compute compute, float* packed);
void packed_product(int64_t m, int64_t n, int64_t k, const float* left, const float* right, Compute compute,
                    bool accumulate, float* c, int64_t ldc);

// rows [begin, end) of weight as float32: the rows themselves, or widened into buffer ((end - begin) * I floats).
const float* widened_rows(WeightView<2> weight, int64_t begin, int64_t end, float* buffer);

// sums (O) += the column sums of rows (N,O), each in the order of the rows.
void add_column_sums(View<const float, 2> rows, View<float, 1> sums);

}  // namespace attnedit::kernels
