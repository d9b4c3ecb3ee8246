#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// What multi-head latent attention [DeepSeek-V2] does around its products, in two steps.
//
// 1. compress: kv_a = W_kva u splits into the raw latent (R) and the raw shared rotary key (P, interleaved pairs):
//      latent = rms_norm(kv_a[:R]; weight, eps)      k_rope = rope(kv_a[R:])          these two are what decoding
//      caches kv_a (B,T,R+P)   weight (R)   cos, sin (S,P/2), table row start + t   latent (B,T,R)   rstd (B,T) k_rope
//      (B,T,P)
Task mla_compress_forward(View<const float, 3> kv_a, View<const float, 1> weight, float eps, View<const float, 2> cos,
                          View<const float, 2> sin, int64_t start, View<float, 3> latent, View<float, 2> rstd,
                          View<float, 3> k_rope);
// dkv_a is overwritten; dweight accumulates, and may be absent; then the workspace may be too. N = B T.
int64_t mla_compress_workspace(int64_t N, int64_t R);
Task mla_compress_backward(View<const float, 3> dlatent, View<const float, 3> dk_rope, View<const float, 3> kv_a,
                           View<const float, 1> weight, View<const float, 2> rstd, View<const float, 2> cos,
                           View<const float, 2> sin, int64_t start, View<float, 3> dkv_a, View<float, 1> dweight,
                           View<float, 1> workspace);

// 2. expand: kv = W_kvb latent holds per head the key part without rotation (Kn) and the value (Kv); every head's key
//    gets the one rotary key behind it:   k_h = [kv_h[:Kn] ; k_rope]     v_h = kv_h[Kn:]
//      kv (B,T,H,Kn+Kv)   k_rope (B,T,P)   k (B,T,H,Kn+P)   v (B,T,H,Kv)
Task mla_expand_forward(View<const float, 4> kv, View<const float, 3> k_rope, View<float, 4> k, View<float, 4> v);
// dkv and dk_rope (the sum over the heads, in order) are overwritten.
Task mla_expand_backward(View<const float, 4> dk, View<const float, 4> dv, View<float, 4> dkv, View<float, 3> dk_rope);

}  // namespace attnedit::kernels
