#pragma once

#include "kernels/attention.h"

namespace attnedit::kernels {

// attention_forward for the newest position of each sequence, whose keys and values lie in a cache; for inference, so
// without a backward:
//   s_j = scale * q_h . k_jg,   g = h / (H / G),   for the slots j < lengths_b
//   o_h = sum_j softmax_j(s_j) v_jg,   times activation(gate_h) where there is a gate
//   q (B,1,H,K)   k (B,S,G,K)   v (B,S,G,Kv): float32, bfloat16 or float16   gate (B,1,H,1) or (B,1,H,Kv)
//   o (B,1,H,Kv)   lengths (B): how many slots are filled
// The softmax does not care for the order of its terms, so a window of S positions is a ring: position p lies in slot
// p mod S, and min(p + 1, S) slots are filled. A sequence of length 0 gives zeros. The bits of a sequence's result
// depend on neither the batch nor S.
int64_t decode_attention_workspace(int64_t B, int64_t S, int64_t H, int64_t G, int64_t K, int64_t Kv);
Task decode_attention(View<const float, 4> q, WeightView<4> k, WeightView<4> v, View<const int32_t, 1> lengths,
                      View<const float, 4> gate, float scale, GateActivation activation, View<float, 4> o,
                      View<float, 1> workspace);

}  // namespace attnedit::kernels
