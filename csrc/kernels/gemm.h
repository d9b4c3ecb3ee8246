#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// The three products of a linear layer y = x weight^T, float32 sums. The only caller of OpenBLAS, which computes
// tiles on one thread each; tiles depend on shapes only, so any number of threads gives the same bits.
//   x (N,I)   weight (O,I), float32, bfloat16 or float16   y, dy (N,O)   workspace in floats
// A weight that is not float32 is widened block by block into the workspace.

// y = x weight^T (+ bias (O), which may be absent)
int64_t gemm_workspace(int64_t N, int64_t I, int64_t O, DType weight);
Task gemm_forward(View<const float, 2> x, WeightView<2> weight, View<const float, 1> bias, View<float, 2> y,
                  View<float, 1> workspace);

// dx = dy weight, overwritten.
Task gemm_input_backward(View<const float, 2> dy, WeightView<2> weight, View<float, 2> dx, View<float, 1> workspace);

// dweight += dy^T x;  dbias += the column sums of dy, if present.
Task gemm_weight_backward(View<const float, 2> dy, View<const float, 2> x, View<float, 2> dweight,
                          View<float, 1> dbias);

// One tile for kernels that run their own parallel loop (fused losses): C (m,n) = alpha op(A) op(B) + beta C,
// row-major with leading dimensions, on the calling thread.
void gemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
               int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// The same, cut into tiles that the threads share. Tiles depend on m, n and k only.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
          const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// rows [begin, end) of weight as float32: the rows themselves, or widened into buffer ((end - begin) * I floats).
const float* widened_rows(WeightView<2> weight, int64_t begin, int64_t end, float* buffer);
// The same, shared by the threads.
const float* widened_block(WeightView<2> weight, int64_t begin, int64_t end, float* buffer);

// The name of the processor that OpenBLAS chose its kernels for, and its version string.
const char* blas_core_name();
const char* blas_config();

}  // namespace attnedit::kernels
