#ifndef ATTNEDIT_ISA  // the loops are decode_loops.cc's
#include "kernels/decode_attention.h"

#include "kernels/decode_loops.h"

namespace attnedit::kernels {
namespace {

Decode plan(int64_t S, int64_t H, int64_t G, int64_t K, int64_t Kv) {
  Decode d{};
  d.sizes = {1, H, G, K, Kv, 0, false, false};
  d.S = S;
  d.separate_values = true;
  return planned(d);
}

}  // namespace

int64_t decode_attention_workspace(int64_t B, int64_t S, int64_t H, int64_t G, int64_t K, int64_t Kv) {
  return decode_workspace(B, plan(S, H, G, K, Kv));
}

Task decode_attention(View<const float, 4> q, WeightView<4> k, WeightView<4> v, View<const int32_t, 1> lengths,
                      View<const float, 4> gate, float scale, GateActivation activation, View<float, 4> o,
                      View<float, 1> workspace) {
  const char* op = "decode_attention";
  const int64_t B = q.dim(0), H = q.dim(2), K = q.dim(3), S = k.dim(1), G = k.dim(2), Kv = v.dim(3);
  check_shape(op, "q", q, {B, 1, H, K});
  check_heads(op, H, G);
  check_shape(op, "k", k, {B, S, G, K});
  check_shape(op, "v", v, {B, S, G, Kv});
  check_lengths(op, lengths, B, 1, S);
  check_shape(op, "o", o, {B, 1, H, Kv});
  check_gate(op, gate, o.shape);
  check_scale(op, scale);
  check_workspace(op, workspace, decode_attention_workspace(B, S, H, G, K, Kv));

  Decode d = plan(S, H, G, K, Kv);
  d.keys = cached(k);
  d.values = cached(v);
  d.q = q.data;
  d.gate = gate.data;
  d.sizes.gate_width = gate ? gate.dim(3) : 0;
  d.sizes.softplus = activation == GateActivation::kSoftplus;
  d.o = o.data;
  d.scale = scale;
  return decode(d, lengths, workspace);
}

}  // namespace attnedit::kernels
#endif
