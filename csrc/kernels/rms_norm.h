#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// y = x * rstd * weight,   rstd = 1 / sqrt(mean(x^2) + eps)          [Zhang & Sennrich 2019]
//   x, y (N,D)   weight (D)   rstd (N), kept for the backward pass
Task rms_norm_forward(View<const float, 2> x, View<const float, 1> weight, float eps, View<float, 2> y,
                      View<float, 1> rstd);

// dx is overwritten. dweight accumulates, and may be absent; then the workspace may be too.
int64_t rms_norm_workspace(int64_t N, int64_t D);
Task rms_norm_backward(View<const float, 2> dy, View<const float, 2> x, View<const float, 1> weight,
                       View<const float, 1> rstd, View<float, 2> dx, View<float, 1> dweight, View<float, 1> workspace);

}  // namespace attnedit::kernels
