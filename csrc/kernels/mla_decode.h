#pragma once

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Multi-head latent attention over a cache that is never expanded: the absorbed form [DeepSeek-V2], for inference, so
// without a backward. Where a key is W_uk latent and a value W_uv latent, the caller moves both matrices to the other
// side of the products: q_latent = W_uk^T q_nope before, W_uv o after.
//   s_tj = scale * (q_latent_th . latent_j + q_rope_th . k_rope_j)      for the positions j <= lengths_b - T + t
//   o_th = sum_j softmax_j(s_tj) latent_j
//   q_latent, o (B,T,H,R)   q_rope (B,T,H,P)   cache (B,S,R+P): a position's latent and behind it k_rope; float32,
//   bfloat16 or float16   lengths (B): how many positions are filled, the T queries' own included
// compute bfloat16: over a bfloat16 cache, and with 16 or more queries T H, both products are of bfloat16 pairs.
// A sequence of length 0 gives zeros. The bits of a sequence's result depend on neither the batch nor S.
int64_t mla_decode_workspace(int64_t B, int64_t T, int64_t S, int64_t H, int64_t R, int64_t P);
Task mla_decode(View<const float, 4> q_latent, View<const float, 4> q_rope, WeightView<3> cache,
                View<const int32_t, 1> lengths, float scale, View<float, 4> o, View<float, 1> workspace,
                Compute compute = Compute::kFloat32);

}  // namespace attnedit::kernels
