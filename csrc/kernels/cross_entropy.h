#pragma once

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Next-token negative log-likelihood from hidden states; the logits z = hidden head^T exist a block at a time.
//   nll_n = log sum_v exp(z_nv) - z_n,label      loss = sum_n weight_n nll_n
//   hidden (N,D)   head (V,D), any storage type   labels (N), in [0, V) or -1: not counted, nll 0
//   weights (N)   loss (1)   nll (N)   argmax (N): the token of the largest logit, the smallest of equal ones
//   dhidden (N,D), overwritten; absent: forward only     dhead (V,D) accumulates; absent: not computed
int64_t cross_entropy_workspace(int64_t N, int64_t D, int64_t V);

Task cross_entropy(View<const float, 2> hidden, WeightView<2> head, View<const int32_t, 1> labels,
                   View<const float, 1> weights, View<float, 1> loss, View<float, 1> nll, View<int32_t, 1> argmax,
                   View<float, 2> dhidden, View<float, 2> dhead, View<float, 1> workspace,
                   Compute compute = Compute::kFloat32);

}  // namespace attnedit::kernels
