#include "kernels/attention_tile.h"
#include "simd/isa.h"

namespace attnedit::kernels {
struct AttentionForward {
  AttentionSizes sizes;
  const float *q, *k, *v, *gate;
  float *o, *y, *lse;
  float scale;
};
}  // namespace attnedit::kernels

// Keys and values [k0, k0 + kKeys) of batch row b and key head g, packed for the products: keys transposed, values
// in padded rows.
ATTNEDIT_LOOPS(void attention_pack(const AttentionForward& f, int64_t b, int64_t g, int64_t k0, float* keys,
                                   float* values);
               void attention_forward_block(const AttentionForward& f, int64_t b, int64_t h, int64_t q0,
                                            const float* keys, const float* values, float* scratch);)

#ifdef ATTNEDIT_ISA
namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// One row of a block of scores becomes 2^(score - top), where top is the greatest score so far: exact zeros outside
// the keys that it sees, written as far as the products of its tile will read. Returns the factor by which what was
// summed under the former top must shrink.
float softmax_row(float* s, Band seen, Band read, float& top, float& total) {
  const int64_t begin = seen.begin / kLanes * kLanes, end = round_up(seen.end, kLanes);
  const int64_t left = read.begin / kLanes * kLanes;
  if (seen.begin >= seen.end) {
    for (int64_t j = left; j < read.end; j += kLanes) store(s + j, Vec{});
    return 1;
  }
  const auto first = static_cast<int32_t>(seen.begin - begin), last = static_cast<int32_t>(seen.end - end + kLanes);
  store(s + begin, lane_numbers() < first ? splat(kUnseen) : load(s + begin));
  store(s + end - kLanes, lane_numbers() < last ? load(s + end - kLanes) : splat(kUnseen));
  Vec greatest = splat(top);
  for (int64_t j = begin; j < end; j += kLanes) greatest = max(greatest, load(s + j));
  const float now = max_lane(greatest);
  Vec sums{};
  for (int64_t j = begin; j < end; j += kLanes) {
    const Vec p = exp2(load(s + j) - now);
    sums += p;
    store(s + j, p);
  }
  for (int64_t j = left; j < begin; j += kLanes) store(s + j, Vec{});
  for (int64_t j = end; j < read.end; j += kLanes) store(s + j, Vec{});
  const float shrink = exp2(splat(top - now))[0];
  total = total * shrink + sum(sums);
  top = now;
  return shrink;
}

}  // namespace

void attention_pack(const AttentionForward& f, int64_t b, int64_t g, int64_t k0, float* keys, float* values) {
  const auto& s = f.sizes;
  const int64_t n = least(kKeys, s.T - k0), head = (b * s.T + k0) * s.G + g;
  pack_transposed(f.k + head * s.K, s.G * s.K, n, s.K, keys + k0 * s.K);
  pack_rows(f.v + head * s.Kv, s.G * s.Kv, n, s.Kv, 1, values + k0 * row_stride(s.Kv), row_stride(s.Kv));
}

// Queries [q0, q0 + kQueries) of one head, over the blocks of keys that they see. Per row: the greatest score so far
// (top), the sum of 2^(score - top) (total) and that sum weighted by the values (sums).
void attention_forward_block(const AttentionForward& f, int64_t b, int64_t h, int64_t q0, const float* keys,
                             const float* values, float* scratch) {
  const auto& s = f.sizes;
  const int64_t rows = least(kQueries, s.T - q0), q_row = row_stride(s.K), v_row = row_stride(s.Kv);
  float* p = scratch;
  float* q = p + kQueries * kScoreRow;
  float* sums = q + kQueries * q_row;
  float* top = sums + kQueries * v_row;
  float* total = top + kQueries;
  const int64_t head = (b * s.T + q0) * s.H + h;
  pack_rows(f.q + head * s.K, s.H * s.K, rows, s.K, f.scale * kLog2E, q, q_row);
  for (int64_t j = 0; j < rows * v_row; ++j) sums[j] = 0;
  for (int64_t i = 0; i < rows; ++i) top[i] = kUnseen, total[i] = 0;

  for (int64_t k0 = most(0, q0 - s.window + 1) / kTileWidth * kTileWidth; k0 < q0 + rows; k0 += kKeys) {
    const int64_t n = least(kKeys, q0 + rows - k0);
    const auto band = [&](int64_t m, int64_t count) { return keys_seen(s, q0 + m, count, k0, n); };
    scores(s, q0, rows, k0, n, s.K, {q, q_row, 1}, keys + k0 * s.K, p);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t m = i / kTileRows * kTileRows;
      const float shrink =
          softmax_row(p + i * kScoreRow, band(i, 1), band(m, least(kTileRows, rows - m)), top[i], total[i]);
      if (shrink == 1) continue;
      float* sums_i = sums + i * v_row;
      for (int64_t j = 0; j < s.Kv; j += kLanes) store(sums_i + j, load(sums_i + j) * shrink);
    }
    banded_product(rows, round_up(s.Kv, kLanes), {p, kScoreRow, 1}, {values + k0 * v_row, v_row, kTileWidth}, sums,
                   v_row, band);
  }

  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = head + i * s.H;
    const float share = 1 / total[i];
    float* o = f.o + at * s.Kv;
    for (int64_t j = 0; j < s.Kv; j += kLanes) store_row(o, j, s.Kv, load(sums + i * v_row + j) * share);
    if (s.gate_width) apply_gate(s, f.gate + at * s.gate_width, o, f.y + at * s.Kv);
    f.lse[(b * s.H + h) * s.T + q0 + i] = top[i] + log2f(total[i]);
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/attention.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kPacked = 1 << 22;  // floats: 16 MiB of packed keys and values are worth more parallel work

int64_t pair_floats(int64_t T, int64_t K, int64_t Kv) { return padded_keys(T) * K + T * row_stride(Kv); }

// How many pairs (batch row, key head) are packed at a time.
int64_t pairs_at_once(int64_t B, int64_t T, int64_t G, int64_t K, int64_t Kv) {
  return std::min(B * G, std::max<int64_t>(num_threads(), kPacked / std::max<int64_t>(pair_floats(T, K, Kv), 1)));
}

int64_t block_floats(int64_t K, int64_t Kv) { return kQueries * (kScoreRow + row_stride(K) + row_stride(Kv) + 2); }

}  // namespace

int64_t attention_forward_workspace(int64_t B, int64_t T, int64_t, int64_t G, int64_t K, int64_t Kv) {
  return pairs_at_once(B, T, G, K, Kv) * whole_lines(pair_floats(T, K, Kv)) + num_threads() * block_floats(K, Kv);
}

Task attention_forward(View<const float, 4> q, View<const float, 4> k, View<const float, 4> v,
                       View<const float, 4> gate, AttentionOptions options, View<float, 4> o, View<float, 4> y,
                       View<float, 3> lse, View<float, 1> workspace) {
  const char* op = "attention_forward";
  const AttentionSizes sizes = checked_sizes(op, q, k, v, gate, options);
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), G = k.dim(2), K = q.dim(3), Kv = v.dim(3);
  check_shape(op, "o", o, {B, T, H, Kv});
  check_shape(op, "lse", lse, {B, H, T});
  ATTNEDIT_CHECK(!y == !gate, op, "y must be given with a gate, and only then");
  if (y) check_shape(op, "y", y, {B, T, H, Kv});
  check_workspace(op, workspace, attention_forward_workspace(B, T, H, G, K, Kv));

  const AttentionForward f{sizes, q.data, k.data, v.data, gate.data, o.data, y.data, lse.data, options.scale};
  const int64_t at_once = pairs_at_once(B, T, G, K, Kv), pair_stride = whole_lines(pair_floats(T, K, Kv));
  const double pairs_seen = B * H * visible_pairs(T, options.window);
  return Task([=] {
           const int64_t key_blocks = (T + kKeys - 1) / kKeys, query_blocks = (T + kQueries - 1) / kQueries;
           float* scratch = workspace.data + at_once * pair_stride;
           for (int64_t first = 0; first < B * G; first += at_once) {
             const int64_t pairs = std::min(at_once, B * G - first), heads = pairs * (H / G);
             const auto keys = [&](int64_t pair) { return workspace.data + pair * pair_stride; };
             const auto values = [&](int64_t pair) { return keys(pair) + padded_keys(T) * K; };
             parallel_items(pairs * key_blocks, [&](int64_t item, int) {
               const int64_t pair = item / key_blocks;
               ATTNEDIT_BEST(attention_pack)
               (f, (first + pair) / G, (first + pair) % G, item % key_blocks * kKeys, keys(pair), values(pair));
             });
             // The last queries see the most keys: they go first.
             parallel_items(heads * query_blocks, [&](int64_t item, int worker) {
               const int64_t pair = item % heads / (H / G), block = query_blocks - 1 - item / heads;
               const int64_t b = (first + pair) / G, h = (first + pair) % G * (H / G) + item % (H / G);
               ATTNEDIT_BEST(attention_forward_block)
               (f, b, h, block * kQueries, keys(pair), values(pair), scratch + worker * block_floats(K, Kv));
             });
           }
         })
      .needing(2 * pairs_seen * (K + Kv));
}

}  // namespace attnedit::kernels
#endif
