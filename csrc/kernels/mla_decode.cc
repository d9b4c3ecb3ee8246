#ifndef ATTNEDIT_ISA  // the loops are decode_loops.cc's
#include "kernels/mla_decode.h"

#include "kernels/decode_loops.h"

namespace attnedit::kernels {
namespace {

Decode plan(int64_t T, int64_t S, int64_t H, int64_t R, int64_t P) {
  Decode d{};
  d.sizes = {T, H, 1, R + P, R, 0, false, false};
  d.S = S;
  d.rest = P;
  return planned(d);
}

}  // namespace

int64_t mla_decode_workspace(int64_t B, int64_t T, int64_t S, int64_t H, int64_t R, int64_t P) {
  return decode_workspace(B, plan(T, S, H, R, P));
}

Task mla_decode(View<const float, 4> q_latent, View<const float, 4> q_rope, WeightView<3> cache,
                View<const int32_t, 1> lengths, float scale, View<float, 4> o, View<float, 1> workspace,
                Compute compute) {
  const char* op = "mla_decode";
  const auto [B, T, H, R] = q_latent.shape;
  const int64_t P = q_rope.dim(3), S = cache.dim(1);
  check_shape(op, "q_rope", q_rope, {B, T, H, P});
  check_shape(op, "cache", cache, {B, S, R + P});
  check_lengths(op, lengths, B, T, S);
  check_shape(op, "o", o, q_latent.shape);
  check_scale(op, scale);
  check_workspace(op, workspace, mla_decode_workspace(B, T, S, H, R, P));

  Decode d = plan(T, S, H, R, P);
  d.keys = cached(cache);
  d.q = q_latent.data;
  d.q_rest = q_rope.data;
  d.o = o.data;
  d.scale = scale;
  d.sizes.pairs = compute == Compute::kBFloat16 && cache.dtype == DType::kBFloat16 && d.wide && (R + P) % 2 == 0;
  return decode(d, lengths, workspace);
}

}  // namespace attnedit::kernels
#endif
