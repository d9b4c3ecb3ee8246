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

// Keys and values [k0, k0 + kKeys) of batch row b and key head g, packed as the left-hand sides of products: strips of
// keys, strips of the values' transpose.
ATTNEDIT_LOOPS(void attention_pack(const AttentionForward& f, int64_t b, int64_t g, int64_t k0, float* keys,
                                   float* values);
               void attention_forward_block(const AttentionForward& f, SeenBounds bounds, int64_t b, int64_t h,
                                            int64_t q0, const float* keys, const float* values, float* scratch);)

#ifdef ATTNEDIT_ISA
namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// A panel of scores, keys [key, key + n) by kTileWidth queries from number query on, becomes the words of
// 2^(score - top), where top is a query's greatest score so far: exact zeros where it does not see the key. first_key
// is of all queries. shrink becomes the factor by which what was summed under the former top must shrink.
template <class Word>
void softmax_panel(float* s, int64_t key, int64_t n, int64_t query, const int32_t* first_key, float* top, float* total,
                   Vec (&shrink)[2]) {
  for (int v = 0; v < 2; ++v, s += kLanes, query += kLanes, top += kLanes, total += kLanes) {
    IntVec first;
    std::memcpy(&first, first_key + query, sizeof first);
    const auto hide = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const auto here = static_cast<int32_t>(key + j), ahead = static_cast<int32_t>(key + j - query);
        const Vec s_j = load(s + j * kTileWidth);
        // Twice as low as the lowest top, so that a query that sees nothing yet makes zeros too.
        store(s + j * kTileWidth, lane_numbers() < ahead ? splat(2 * kUnseen)
                                  : first > here         ? splat(2 * kUnseen)
                                                         : s_j);
      }
    };
    const int64_t all_see = most(0, least(n, first_key[query + kLanes - 1] - key));
    hide(0, all_see);
    hide(most(all_see, query + 1 - key), n);
    const Vec before = load(top);
    Vec greatest[4] = {before, before, before, before};
    int64_t j = 0;
    for (; j + 4 <= n; j += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) greatest[i] = max(greatest[i], load(s + (j + i) * kTileWidth));
    for (; j < n; ++j) greatest[0] = max(greatest[0], load(s + j * kTileWidth));
    const Vec now = max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3]));
    Vec sums{};
    for (j = 0; j < n; j += Word::kNumbers) {
      const auto probabilities = [&](int64_t key) {
        const Vec p = key < n ? exp2(load(s + key * kTileWidth) - now) : Vec{};
        sums += p;
        return p;
      };
      const Vec p = probabilities(j);
      // In place: a word comes to lie where numbers before it were.
      if constexpr (Word::kNumbers == 1)
        store(s + j * kTileWidth, p);
      else
        store(s + j / 2 * kTileWidth, pairs(p, probabilities(j + 1)));
    }
    shrink[v] = exp2(before - now);
    store(total, load(total) * shrink[v] + sums);
    store(top, now);
  }
}

template <class Word>
void pack(const AttentionForward& f, int64_t b, int64_t g, int64_t k0, float* keys, float* values) {
  const auto& s = f.sizes;
  const int64_t n = least(kKeys, s.T - k0), head = (b * s.T + k0) * s.G + g;
  strips_of<Word>(f.k + head * s.K, s.G * s.K, n, s.K, keys + k0 * words_of<Word>(s.K));
  transposed_strips_of<Word>(f.v + head * s.Kv, s.G * s.Kv, s.Kv, n, values + words_of<Word>(k0) * s.Kv);
}

// Queries [q0, q0 + kQueries) of one head, over the blocks of keys that they see, a panel of kTileWidth queries at a
// time. Per query: the greatest score so far (top), the sum of 2^(score - top) (total) and that sum weighted by the
// values (sums). Everything is transposed: a query is a lane.
template <class Word>
void forward_block(const AttentionForward& f, SeenBounds bounds, int64_t b, int64_t h, int64_t q0, const float* keys,
                   const float* values, float* scratch) {
  const MatrixTiles<Word> tiles;
  const auto& s = f.sizes;
  const int64_t key_words = words_of<Word>(s.K);
  const int64_t rows = least(kQueries, s.T - q0), head = (b * s.T + q0) * s.H + h, v_row = round_up(s.Kv, kLanes);
  float* p = scratch;
  float* q = p + kKeys * kTileWidth;
  float* sums = q + kQueries * s.K;
  float* top = sums + kQueries * v_row;
  float* total = top + kQueries;
  for (int64_t i = 0; i < rows; i += kTileWidth)
    panel_of<Word>(f.q + (head + i * s.H) * s.K, 1, s.H * s.K, least(kTileWidth, rows - i), s.K, f.scale * kLog2E,
                   q + i * key_words);
  for (int64_t j = 0; j < kQueries * v_row; j += kLanes) store(sums + j, Vec{});
  for (int64_t i = 0; i < kQueries; ++i) top[i] = kUnseen, total[i] = 0;

  for (int64_t k0 = bounds.first_key[q0] / kKeys * kKeys; k0 < q0 + rows; k0 += kKeys)
    for (int64_t i = 0; i < rows; i += kTileWidth) {
      const int64_t n = least(kKeys, s.T - k0);
      Band seen = keys_seen(bounds, q0 + i, least(kTileWidth, rows - i), k0, n);
      if (seen.begin >= seen.end) continue;
      seen.begin = seen.begin / kStripRows<Word> * kStripRows<Word>;
      float* p_seen = p + seen.begin * kTileWidth;
      strips_by_panel<Word>(least(round_up(seen.end, kStripRows<Word>), n) - seen.begin, s.K, {0, s.K},
                            keys + (k0 + seen.begin) * key_words, q + i * key_words, p_seen, false);
      Vec shrink[2];
      softmax_panel<Word>(p_seen, k0 + seen.begin, seen.end - seen.begin, q0 + i, bounds.first_key, top + i, total + i,
                          shrink);
      float* sums_i = sums + i * v_row;
      for (int64_t j = 0; j < s.Kv; ++j, sums_i += kTileWidth)
        for (int v = 0; v < 2; ++v) store(sums_i + v * kLanes, load(sums_i + v * kLanes) * shrink[v]);
      strips_by_panel<Word>(s.Kv, n, seen, values + words_of<Word>(k0) * s.Kv, p_seen, sums + i * v_row, true);
    }

  for (int64_t i = 0; i < rows; i += kTileWidth)
    unpack_panel(sums + i * v_row, least(kTileWidth, rows - i), s.Kv,
                 {1 / load(total + i), 1 / load(total + i + kLanes)}, f.o + (head + i * s.H) * s.Kv, s.H * s.Kv);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = head + i * s.H;
    if (s.gate_width) apply_gate(s, f.gate + at * s.gate_width, f.o + at * s.Kv, f.y + at * s.Kv);
    f.lse[(b * s.H + h) * s.T + q0 + i] = top[i] + log2f(total[i]);
  }
}

}  // namespace

void attention_pack(const AttentionForward& f, int64_t b, int64_t g, int64_t k0, float* keys, float* values) {
  (f.sizes.pairs ? pack<BFloat16Pair> : pack<Float32>)(f, b, g, k0, keys, values);
}

void attention_forward_block(const AttentionForward& f, SeenBounds bounds, int64_t b, int64_t h, int64_t q0,
                             const float* keys, const float* values, float* scratch) {
  (f.sizes.pairs ? forward_block<BFloat16Pair> : forward_block<Float32>)(f, bounds, b, h, q0, keys, values, scratch);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/attention.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kPacked = 1 << 22;  // floats: 16 MiB of packed keys and values are worth more parallel work

int64_t pair_floats(int64_t T, int64_t K, int64_t Kv) { return T * (K + Kv); }

// How many pairs (batch row, key head) are packed at a time.
int64_t pairs_at_once(int64_t B, int64_t T, int64_t G, int64_t K, int64_t Kv) {
  return std::min(B * G, std::max<int64_t>(num_threads(), kPacked / std::max<int64_t>(pair_floats(T, K, Kv), 1)));
}

int64_t block_floats(int64_t K, int64_t Kv) { return kKeys * kWidest + kQueries * (K + whole_lines(Kv) + 2); }

}  // namespace

int64_t attention_forward_workspace(int64_t B, int64_t T, int64_t, int64_t G, int64_t K, int64_t Kv) {
  return bounds_floats(B, T) + pairs_at_once(B, T, G, K, Kv) * whole_lines(pair_floats(T, K, Kv)) +
         num_threads() * block_floats(K, Kv);
}

Task attention_forward(View<const float, 4> q, View<const float, 4> k, View<const float, 4> v,
                       View<const float, 4> gate, View<const int32_t, 2> starts, AttentionOptions options,
                       View<float, 4> o, View<float, 4> y, View<float, 3> lse, View<float, 1> workspace) {
  const char* op = "attention_forward";
  const AttentionSizes sizes = checked_sizes(op, q, k, v, gate, options);
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), G = k.dim(2), K = q.dim(3), Kv = v.dim(3);
  check_shape(op, "o", o, {B, T, H, Kv});
  check_shape(op, "lse", lse, {B, H, T});
  check_starts(op, starts, B, T);
  ATTNEDIT_CHECK(!y == !gate, op, "y must be given with a gate, and only then");
  if (y) check_shape(op, "y", y, {B, T, H, Kv});
  check_workspace(op, workspace, attention_forward_workspace(B, T, H, G, K, Kv));

  const AttentionForward f{sizes, q.data, k.data, v.data, gate.data, o.data, y.data, lse.data, options.scale};
  const int64_t at_once = pairs_at_once(B, T, G, K, Kv), pair_stride = whole_lines(pair_floats(T, K, Kv));
  const double pairs_seen = H * visible_pairs(starts, options.window, B, T);
  return Task([=] {
           const int64_t key_blocks = parts_of(T, kKeys), query_blocks = parts_of(T, kQueries);
           fill_bounds(starts, options.window, B, T, workspace.data);
           float *packed = workspace.data + bounds_floats(B, T), *scratch = packed + at_once * pair_stride;
           for (int64_t first = 0; first < B * G; first += at_once) {
             const int64_t pairs = std::min(at_once, B * G - first), heads = pairs * (H / G);
             const auto keys = [&](int64_t pair) { return packed + pair * pair_stride; };
             const auto values = [&](int64_t pair) { return keys(pair) + T * K; };
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
               (f, bounds_of(workspace.data, T, b), b, h, block * kQueries, keys(pair), values(pair),
                scratch + worker * block_floats(K, Kv));
             });
           }
         })
      .needing(2 * pairs_seen * (K + Kv));
}

}  // namespace attnedit::kernels
#endif
