#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// How a mixture of experts sends tokens to experts and adds up what they answer (Qwen3-MoE's softmax router).
// N tokens, E experts, k of them per token: slot t * k + j is token t's j-th choice, and all N k slots sorted by expert
// are the rows that the experts compute on. Slots, rows and choices are looked at when a task runs: an earlier task of
// the stream makes them.

// p = softmax(logits[t]);  chosen = the k greatest, in descending order, the lower number first among equals;
// weights = p[chosen], divided by their sum with normalize. A token with a NaN among its logits gets NaN for every
// weight, as softmax says, and some k different experts.
//   logits (N,E)   weights, chosen (N,k)   offsets (E+1): rows [offsets[e], offsets[e+1]) are expert e's
//   slots (N k): the slot of a row, ascending within an expert   rows (N k): the row of a slot
struct Routes {
  View<int32_t, 2> chosen;
  View<int32_t, 1> offsets, slots, rows;
};
Task moe_route_forward(View<const float, 2> logits, bool normalize, View<float, 2> weights, Routes routes);
// dlogits is overwritten; the choice itself has no gradient.
Task moe_route_backward(View<const float, 2> dweights, View<const float, 2> logits, View<const int32_t, 2> chosen,
                        bool normalize, View<float, 2> dlogits);

// y[r] = x[slots[r] / k]      x (N,D)   y (N k,D)
Task moe_gather(View<const float, 2> x, View<const int32_t, 1> slots, View<float, 2> y);
// y[t] = sum_j weights[t,j] x[rows[t k + j]], in the order of j; without weights all are 1.      x (N k,D)   y (N,D)
Task moe_combine(View<const float, 2> x, View<const int32_t, 1> rows, View<const float, 2> weights, View<float, 2> y);

// Back through the weighting, where gradients are those of an expert's hidden numbers h:
//   dweights[slot of r] = <dh[r], h[r]>,   dh[r] *= weights[slot of r]      h, dh (N k,F)
Task moe_weigh_backward(View<const float, 2> h, View<const float, 2> weights, View<const int32_t, 1> slots,
                        View<float, 2> dh, View<float, 2> dweights);

}  // namespace attnedit::kernels
