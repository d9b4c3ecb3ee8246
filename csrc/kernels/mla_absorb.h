#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// What the absorbed form of multi-head latent attention [DeepSeek-V2] does before and after mla_decode: the matrices
// that would expand every cached latent move to the query and to the output. For the few rows N of decoding.
//   kv_b (H * (Kn + Kv), R), float32, bfloat16 or float16: per head W_uk (Kn, R), then W_uv (Kv, R)

// q (N,H,Kn+P) -> q_latent (N,H,R) = q[:Kn] W_uk of the head,  q_rope (N,H,P) = q[Kn:]
Task mla_absorb_query(View<const float, 3> q, WeightView<2> kv_b, View<float, 3> q_latent, View<float, 3> q_rope);

// o_latent (N,H,R) -> o (N,H,Kv) = o_latent W_uv^T of the head
Task mla_absorb_value(View<const float, 3> o_latent, WeightView<2> kv_b, View<float, 3> o);

}  // namespace attnedit::kernels
