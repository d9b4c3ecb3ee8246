#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// The two losses on activations (N,D), each with its gradient. A row's weight is 0 where it is masked.
//
// Energy-normalised squared error: 1 is what a zero output scores, 0 is perfect.
//   loss = sum_n w_n |student_n - teacher_n|^2 / (sum_n w_n |teacher_n|^2 + eps)
//   dstudent = 2 w_n (student_n - teacher_n) / (the same denominator), overwritten, may be absent
//   energy (2): the two sums, without eps, so that a caller can add up batches exactly
int64_t fused_mse_workspace(int64_t N);
Task fused_mse(View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights, float eps,
               View<float, 1> loss, View<float, 1> energy, View<float, 2> dstudent, View<float, 1> workspace);

// Cosine feature loss:   loss = sum_n w_n (1 - cos(student_n, teacher_n))
//   dstudent = -w_n (t / (|s||t|) - cos s / |s|^2), overwritten, may be absent; a zero row has cosine 0, gradient 0
Task cosine_loss(View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights,
                 View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace);

}  // namespace attnedit::kernels
