#pragma once

#include "kernels/compute.h"
#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Causal attention without ever holding a T x T array [Dao et al. 2022], with an optional window and output gate:
//   s_tj = scale * q_th . k_jg,   g = h / (H / G),   for the keys  max(0, t - window + 1, starts_t) <= j <= t
//   o_th = sum_j softmax_j(s_tj) v_jg
//   y_th = activation(gate_th) * o_th        gate per head (B,T,H,1) or per element (B,T,H,Kv); absent: y_th = o_th
//   q (B,T,H,K)   k (B,T,G,K)   v (B,T,G,Kv)   o, y (B,T,H,Kv)
//   lse (B,H,T): log2 of the softmax denominator in the log2 domain, i.e. log2 sum_j 2^(s_tj log2 e), for the backward
// K and Kv may differ. window 0 means none. starts (B,T), absent where a row is one document: the position at which the
// document of position t begins, so that the documents of a row do not see each other; it never falls along t.
enum class GateActivation { kSigmoid, kSoftplus };

struct AttentionOptions {
  float scale;
  int64_t window = 0;
  GateActivation activation = GateActivation::kSigmoid;
  Compute compute = Compute::kFloat32;
};

// Scratch in floats. It depends on num_threads(); the results do not.
int64_t attention_forward_workspace(int64_t B, int64_t T, int64_t H, int64_t G, int64_t K, int64_t Kv);
int64_t attention_backward_workspace(int64_t B, int64_t T, int64_t H, int64_t G, int64_t K, int64_t Kv);

// Without a gate, y is absent and o is the result; with one, o is kept for the backward pass.
Task attention_forward(View<const float, 4> q, View<const float, 4> k, View<const float, 4> v,
                       View<const float, 4> gate, View<const int32_t, 2> starts, AttentionOptions options,
                       View<float, 4> o, View<float, 4> y, View<float, 3> lse, View<float, 1> workspace);

// dy is the gradient of y (of o where there is no gate). dq, dk, dv, dgate are overwritten; dgate is absent iff gate
// is.
Task attention_backward(View<const float, 4> dy, View<const float, 4> q, View<const float, 4> k, View<const float, 4> v,
                        View<const float, 4> gate, View<const int32_t, 2> starts, AttentionOptions options,
                        View<const float, 4> o, View<const float, 3> lse, View<float, 4> dq, View<float, 4> dk,
                        View<float, 4> dv, View<float, 4> dgate, View<float, 1> workspace);

}  // namespace attnedit::kernels
