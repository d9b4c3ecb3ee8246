#pragma once

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Divergence between the next-token distributions of a teacher and a student, from hidden states: the logits
// z = hidden head^T exist a block of the vocabulary at a time, never (N,V).
//   p = softmax(z_teacher / tau), q = softmax(z_student / tau)
//   kForward:  tau^2 KL(p || q)      kReverse:  tau^2 KL(q || p)
//   kJsd:      tau^2 (KL(p || m) + KL(q || m)) / 2,  m = (p + q) / 2
// loss = sum_n weight_n divergence_n; divergences (N) are also given one by one, unweighted.
//   student, teacher (N,D)   student_head, teacher_head (V,D), any storage type, may be the same array
//   weights (N): usually 1 / (number of tokens); a masked token has weight 0
//   loss (1)   divergences (N)   dstudent (N,D), the gradient of loss, overwritten; absent: forward only
//   dhead (V,D), the gradient by student_head, accumulates; absent: not computed
enum class Divergence { kForward, kReverse, kJsd };

struct FusedKlOptions {
  Divergence divergence = Divergence::kForward;
  float temperature = 1;
  Compute compute = Compute::kFloat32;
};

// Scratch in floats: O(N D + N + a block of logits), never N V.
int64_t fused_kl_workspace(int64_t N, int64_t D, int64_t V, FusedKlOptions options);

Task fused_kl(View<const float, 2> student, WeightView<2> student_head, View<const float, 2> teacher,
              WeightView<2> teacher_head, View<const float, 1> weights, FusedKlOptions options, View<float, 1> loss,
              View<float, 1> divergences, View<float, 2> dstudent, View<float, 2> dhead, View<float, 1> workspace);

}  // namespace attnedit::kernels
