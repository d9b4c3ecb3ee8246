#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Squared error between the logits of student and teacher under one frozen head, without the logits:
//   sum_v (s . head_v - t . head_v)^2 = d^T (head^T head) d,   d = s - t
// so that a step costs N D^2 multiply-adds instead of 3 N D V, once the Gram matrix of the head is there.

// gram = head^T head      head (V,D), any storage type   gram (D,D), overwritten
int64_t gram_workspace(int64_t V, int64_t D);
Task gram(WeightView<2> head, View<float, 2> gram, View<float, 1> workspace);

// loss = sum_n w_n (d_n^T gram d_n) / V        dstudent = 2 w_n (gram d_n) / V, overwritten, may be absent
//   student, teacher (N,D)   weights (N), 0 where a row is masked   V: the head's rows
int64_t logit_mse_workspace(int64_t N, int64_t D);
Task logit_mse(View<const float, 2> student, View<const float, 2> teacher, View<const float, 2> gram, int64_t V,
               View<const float, 1> weights, View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace);

}  // namespace attnedit::kernels
