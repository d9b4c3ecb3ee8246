#pragma once

// What the forward and the backward loops of attention share. Internal to attention*.cc.

#include <cstdint>

namespace attnedit::kernels {

struct AttentionSizes {
  int64_t T, H, G, K, Kv;
  int64_t gate_width;  // 1 or Kv; 0 without a gate
  bool softplus;       // the gate's activation; otherwise sigmoid
  bool pairs;          // products of bfloat16 pairs (simd/tile.h)
};

// What a window and documents leave, of one batch row: query t sees the keys [first_key[t], t], key j is seen by the
// queries [j, end_query[j]). Neither ever falls, so that a block's range follows from its first and its last row.
struct SeenBounds {
  int32_t *first_key, *end_query;
};

namespace {

// Both are multiples of every tile's height and width: 32 x 32, 12 x 32, 6 x 16, 6 x 8.
constexpr int64_t kQueries = 96;
constexpr int64_t kKeys = 192;
constexpr int64_t kWidest = 32;    // panel
constexpr int64_t kLine = 16;      // floats in a cache line
constexpr float kUnseen = -1e38f;  // below every finite score, and twice of it is still a number

[[maybe_unused]] constexpr int64_t whole_lines(int64_t n) { return (n + kLine - 1) / kLine * kLine; }
[[maybe_unused]] constexpr int64_t padded_rows(int64_t T) { return (T + kWidest - 1) / kWidest * kWidest; }

// In a workspace, which is of floats: a panel of queries reads whole vectors of bounds, past the last query too.
static_assert(sizeof(int32_t) == sizeof(float));
[[maybe_unused]] constexpr int64_t bounds_floats(int64_t B, int64_t T) { return 2 * B * padded_rows(T); }
[[maybe_unused]] inline SeenBounds bounds_of(float* at, int64_t T, int64_t b) {
  auto* first_key = reinterpret_cast<int32_t*>(at) + 2 * b * padded_rows(T);
  return {first_key, first_key + padded_rows(T)};
}

}  // namespace
}  // namespace attnedit::kernels

#ifdef ATTNEDIT_ISA
#include "simd/pack.h"

namespace attnedit::kernels {
namespace {

// The keys that queries [t, t + count) see, counted from key k0 and cut to the n keys there.
inline Band keys_seen(SeenBounds bounds, int64_t t, int64_t count, int64_t k0, int64_t n) {
  return {most(0, bounds.first_key[t] - k0), least(n, t + count - k0)};
}

inline Vec sigmoid(Vec x) { return 1.f / (1.f + exp(-max(splat(-87.f), x))); }

// log(1 + e^x) = max(x, 0) + log(1 + z),   z = e^-|x|,   log(1 + z) = 2 artanh(z / (2 + z)) as its series
[[maybe_unused]] inline Vec softplus(Vec x) {
  const Vec z = exp(-max(x, -x));
  const Vec w = z / (2.f + z);
  const Vec w2 = w * w;
  Vec p = splat(1.f / 15);
  p = p * w2 + 1.f / 13;
  p = p * w2 + 1.f / 11;
  p = p * w2 + 1.f / 9;
  p = p * w2 + 1.f / 7;
  p = p * w2 + 1.f / 5;
  p = p * w2 + 1.f / 3;
  p = p * w2 + 1.f;
  return max(x, Vec{}) + 2.f * w * p;
}

[[maybe_unused]] inline Vec activation(const AttentionSizes& s, Vec gate) {
  return s.softplus ? softplus(gate) : sigmoid(gate);
}
[[maybe_unused]] inline Vec activation_slope(const AttentionSizes& s, Vec gate) {
  const Vec y = sigmoid(gate);
  return s.softplus ? y : y * (1.f - y);
}

// Loads and stores of a row's numbers [j, j + kLanes), the last of which may be past its width.
[[maybe_unused]] inline Vec load_row(const float* x, int64_t j, int64_t width) {
  return width - j >= kLanes ? load(x + j) : load_part(x + j, width - j);
}
[[maybe_unused]] inline void store_row(float* x, int64_t j, int64_t width, Vec v) {
  width - j >= kLanes ? store(x + j, v) : store_part(x + j, v, width - j);
}

// y = activation(gate) * o
[[maybe_unused]] inline void apply_gate(const AttentionSizes& s, const float* gate, const float* o, float* y) {
  for (int64_t j = 0; j < s.Kv; j += kLanes) {
    const Vec x = s.gate_width == 1 ? splat(gate[0]) : load_row(gate, j, s.Kv);
    store_row(y, j, s.Kv, activation(s, x) * load_row(o, j, s.Kv));
  }
}

}  // namespace
}  // namespace attnedit::kernels

#else
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "runtime/check.h"
#include "tensor/check_shape.h"

namespace attnedit::kernels {
namespace {

inline void check_workspace(const char* op, View<float, 1> workspace, int64_t need) {
  ATTNEDIT_CHECK(workspace.size() >= need, op, "workspace must have at least ", need, " floats, got ",
                 workspace.size());
}

inline void check_heads(const char* op, int64_t H, int64_t G) {
  ATTNEDIT_CHECK(G > 0 && H % G == 0, op, "k must have a number of heads that divides ", H, ", got ", G);
}

inline void check_scale(const char* op, float scale) {
  ATTNEDIT_CHECK(std::isfinite(scale), op, "scale must be finite, got ", scale);
}

// o: the shape of the output
inline void check_gate(const char* op, View<const float, 4> gate, std::array<int64_t, 4> o) {
  auto per_head = o;
  per_head[3] = 1;
  ATTNEDIT_CHECK(!gate || gate.shape == per_head || gate.shape == o, op, "gate must have shape ", to_string(per_head),
                 " or ", to_string(o), ", got ", to_string(gate.shape));
}

inline void check_starts(const char* op, View<const int32_t, 2> starts, int64_t B, int64_t T) {
  if (!starts) return;
  check_shape(op, "document_starts", starts, {B, T});
  for (int64_t n = 0; n < B * T; ++n) {
    const int64_t t = n % T, least = t > 0 ? starts.data[n - 1] : 0;
    ATTNEDIT_CHECK(starts.data[n] >= least && starts.data[n] <= t, op, "document_starts must lie in [", least, ", ", t,
                   "] at position ", t, " of row ", n / T, ", got ", starts.data[n]);
  }
}

inline int64_t first_key(View<const int32_t, 2> starts, int64_t window, int64_t T, int64_t b, int64_t t) {
  const int64_t start = starts ? starts.data[b * T + t] : 0;
  return window > 0 ? std::max(start, t - window + 1) : start;
}

// Pairs of a query and a key that see each other, of one head of all batch rows.
inline double visible_pairs(View<const int32_t, 2> starts, int64_t window, int64_t B, int64_t T) {
  double pairs = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) pairs += double(t - first_key(starts, window, T, b, t) + 1);
  return pairs;
}

inline void fill_bounds(View<const int32_t, 2> starts, int64_t window, int64_t B, int64_t T, float* at) {
  for (int64_t b = 0; b < B; ++b) {
    const SeenBounds bounds = bounds_of(at, T, b);
    int64_t first = 0, j = 0;
    for (int64_t t = 0; t < T; ++t) {
      first = first_key(starts, window, T, b, t);
      for (; j < first; ++j) bounds.end_query[j] = static_cast<int32_t>(t);
      bounds.first_key[t] = static_cast<int32_t>(first);
    }
    for (; j < T; ++j) bounds.end_query[j] = static_cast<int32_t>(T);
    for (int64_t t = T; t < padded_rows(T); ++t) bounds.first_key[t] = static_cast<int32_t>(first);
  }
}

inline AttentionSizes checked_sizes(const char* op, View<const float, 4> q, View<const float, 4> k,
                                    View<const float, 4> v, View<const float, 4> gate, AttentionOptions options) {
  const auto [B, T, H, K] = q.shape;
  const int64_t G = k.dim(2), Kv = v.dim(3);
  check_shape(op, "k", k, {B, T, G, K});
  check_shape(op, "v", v, {B, T, G, Kv});
  check_heads(op, H, G);
  check_gate(op, gate, {B, T, H, Kv});
  check_scale(op, options.scale);
  ATTNEDIT_CHECK(options.window >= 0, op, "window must be 0, for none, or more, got ", options.window);
  return {T,
          H,
          G,
          K,
          Kv,
          gate ? gate.dim(3) : 0,
          options.activation == GateActivation::kSoftplus,
          options.compute == Compute::kBFloat16};
}

}  // namespace
}  // namespace attnedit::kernels
#endif
