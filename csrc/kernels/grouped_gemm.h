#pragma once

#include <vector>

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// One product per expert, each on its own rows: rows [offsets[e], offsets[e+1]) belong to expert e.
//   x (N,I)   offsets (E+1), from 0 to N, read when the task runs   weights: E of (O,I), float32, bfloat16 or float16
//   y, dy (N,O)   workspace in floats, one size for both
int64_t grouped_gemm_workspace(int64_t I, int64_t O);

// y[n] = weights[e] x[n]
Task grouped_gemm_forward(View<const float, 2> x, View<const int32_t, 1> offsets, std::vector<WeightView<2>> weights,
                          View<float, 2> y, View<float, 1> workspace, Compute compute = Compute::kFloat32);

// dx[n] = weights[e]^T dy[n], overwritten, or added to dx with accumulate. The experts' weights are frozen.
Task grouped_gemm_input_backward(View<const float, 2> dy, View<const int32_t, 1> offsets,
                                 std::vector<WeightView<2>> weights, bool accumulate, View<float, 2> dx,
                                 View<float, 1> workspace, Compute compute = Compute::kFloat32);

}  // namespace attnedit::kernels
