#include "kernels/attention_tile.h"
#include "simd/isa.h"

namespace attnedit::kernels {
struct AttentionBackward {
  AttentionSizes sizes;
  const float *dy, *q, *k, *v, *gate, *o, *lse;
  float *dq, *dk, *dv, *dgate;
  float scale;
};

// One key head's keys and values, and one of its query heads, packed for the products. A block's part begins with its
// first row, times the width: panels of k and v, strips of q and do, strips of their transposes.
struct PackedKeys {
  float *k, *v, *k_transposed;
};
struct PackedQueries {
  float *q, *d_o, *q_transposed, *d_o_transposed, *delta;
};
namespace {

// A block's p, ds and ds^T; before, its rows of do. What follows is dq.
constexpr int64_t block_floats(int64_t Kv) {
  const int64_t block = 2 * kWidest + kKeys, row = whole_lines(Kv);
  return kQueries * (block > row ? block : row);
}

}  // namespace
}  // namespace attnedit::kernels

// Either one item does everything for a key head, or the work is cut finer at the price of computing the scores twice:
// blocks of keys own dk and dv, blocks of queries own dq. The sums have the same terms in the same order both ways.
ATTNEDIT_LOOPS(void attention_pack_keys(const AttentionBackward& f, int64_t b, int64_t g, int64_t k0, PackedKeys keys);
               void attention_pack_queries(const AttentionBackward& f, int64_t b, int64_t h, int64_t q0,
                                           PackedQueries queries, float* scratch);
               void attention_backward_head(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h,
                                            PackedKeys keys, PackedQueries queries, float* dk, float* dv,
                                            float* scratch);
               void attention_backward_keys(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h,
                                            int64_t k0, PackedKeys keys, PackedQueries queries, float* dk, float* dv,
                                            float* scratch);
               void attention_backward_queries(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h,
                                               int64_t q0, PackedKeys keys, PackedQueries queries, float* scratch);
               void attention_store_keys(const AttentionBackward& f, int64_t b, int64_t g, int64_t k0, int64_t n,
                                         const float* dk, const float* dv);)

#ifdef ATTNEDIT_ISA
namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// do = activation(gate) * dy,   dgate = activation'(gate) * dy * o, summed over the head where the gate is per head
// Returns delta = sum(do * o), by which softmax's gradient is centred.
float gate_backward(const AttentionSizes& s, const float* gate, const float* dy, const float* o, float* d_o,
                    float* dgate) {
  Vec delta{}, slopes{};
  for (int64_t j = 0; j < s.Kv; j += kLanes) {
    const Vec dy_j = load_row(dy, j, s.Kv), o_j = load_row(o, j, s.Kv);
    Vec d_o_j = dy_j;
    if (s.gate_width) {
      const Vec x = s.gate_width == 1 ? splat(gate[0]) : load_row(gate, j, s.Kv);
      const Vec slope = activation_slope(s, x) * dy_j * o_j;
      d_o_j = activation(s, x) * dy_j;
      slopes += slope;
      if (s.gate_width > 1) store_row(dgate, j, s.Kv, slope);
    }
    delta += d_o_j * o_j;
    store(d_o + j, d_o_j);
  }
  if (s.gate_width == 1) dgate[0] = sum(slopes);
  return sum(delta);
}

// Of one query and a panel of keys: scores become probabilities p = 2^(score log2 e - lse), and dp becomes
// ds = p * (dp - delta). Exact zeros but for the keys [first, last] of the panel, which the query sees.
void softmax_backward_row(float* p, float* ds, int64_t first, int64_t last, float scale, float lse, float delta) {
  for (int v = 0; v < 2; ++v, p += kLanes, ds += kLanes, first -= kLanes, last -= kLanes) {
    Vec p_v = exp2(load(p) * scale - lse), ds_v = p_v * (load(ds) - delta);
    if (last < kLanes - 1 || first > 0) {
      const IntVec unseen =
          (lane_numbers() < static_cast<int32_t>(first)) | (lane_numbers() > static_cast<int32_t>(last));
      p_v = unseen ? Vec{} : p_v;
      ds_v = unseen ? Vec{} : ds_v;
    }
    store(p, p_v);
    store(ds, ds_v);
  }
}

// The words of the transpose of a square of kTileWidth x kTileWidth.
template <class Word>
void transpose_square(const float* x, float* y) {
  constexpr int kNumbers = Word::kNumbers;
  for (int64_t i = 0; i < kTileWidth; i += kLanes)
    for (int64_t j = 0; j < kTileWidth; j += kLanes * kNumbers) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) block[l] = words_along<Word>(x + (i + l) * kTileWidth + j, 1);
      transpose(block);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) store(y + (j / kNumbers + l) * kTileWidth + i, block[l]);
    }
}

void zero(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0;
}

// One block of queries by one block of keys, a panel of keys at a time: adds what it contributes to dq, or to dk and
// dv, where they are given, in panels.
// All pointers are those of the whole head, but dq, dk and dv, which begin with the block.
//   p = 2^(scale log2 e q k^T - lse)   dv^T += do^T p   ds = p * (do v^T - delta)   dk^T += q^T ds   dq^T += k^T ds^T
// The factor scale of dq and dk is applied when they are complete.
template <class Word>
void block_of(const AttentionBackward& f, SeenBounds bounds, const float* lse, PackedKeys keys, PackedQueries queries,
              int64_t q0, int64_t k0, float* dq, float* dk, float* dv, float* scratch) {
  const MatrixTiles<Word> tiles;
  const auto& s = f.sizes;
  const int64_t rows = least(kQueries, s.T - q0), n = least(kKeys, s.T - k0);
  const int64_t key_words = words_of<Word>(s.K), value_words = words_of<Word>(s.Kv);
  float *p = scratch, *ds = p + kQueries * kTileWidth, *ds_transposed = ds + kQueries * kTileWidth;
  for (int64_t j = 0; j < n; j += kTileWidth) {
    const int64_t key = k0 + j;
    const Band seen_by = {most(0, key - q0), least(rows, bounds.end_query[key + least(kTileWidth, n - j) - 1] - q0)};
    if (seen_by.begin >= seen_by.end) continue;
    const int64_t first = seen_by.begin / kStripRows<Word> * kStripRows<Word>;
    const int64_t count = least(round_up(seen_by.end, kStripRows<Word>), rows) - first;
    strips_by_panel<Word>(count, s.K, {0, s.K}, queries.q + (q0 + first) * key_words, keys.k + key * key_words,
                          p + first * kTileWidth, false);
    strips_by_panel<Word>(count, s.Kv, {0, s.Kv}, queries.d_o + (q0 + first) * value_words, keys.v + key * value_words,
                          ds + first * kTileWidth, false);
    for (int64_t i = seen_by.begin; i < seen_by.end; ++i)
      softmax_backward_row(p + i * kTileWidth, ds + i * kTileWidth, bounds.first_key[q0 + i] - key, q0 + i - key,
                           f.scale * kLog2E, lse[q0 + i], queries.delta[q0 + i]);
    if (dq) {
      const int64_t begin = seen_by.begin / kTileWidth * kTileWidth, end = round_up(seen_by.end, kTileWidth);
      zero(ds + begin * kTileWidth, (seen_by.begin - begin) * kTileWidth);
      zero(ds + seen_by.end * kTileWidth, (end - seen_by.end) * kTileWidth);
      for (int64_t i = begin; i < end; i += kTileWidth)
        transpose_square<Word>(ds + i * kTileWidth,
                               ds_transposed + i / Word::kNumbers * kKeys + words_of<Word>(j) * kTileWidth);
    }
    if (dk) {
      // Whole words or tiles: the queries before the first one have probability zero.
      const Band band = {seen_by.begin / kStep<Word> * kStep<Word>, seen_by.end};
      for (float* x : {p, ds}) {
        zero(x + band.begin * kTileWidth, (seen_by.begin - band.begin) * kTileWidth);
        panel_to_words<Word>(x, band.begin, band.end);
      }
      const int64_t first_word = words_of<Word>(band.begin) * kTileWidth;
      strips_by_panel<Word>(s.Kv, rows, band, queries.d_o_transposed + words_of<Word>(q0) * s.Kv, p + first_word,
                            dv + j * whole_lines(s.Kv), true);
      strips_by_panel<Word>(s.K, rows, band, queries.q_transposed + words_of<Word>(q0) * s.K, ds + first_word,
                            dk + j * whole_lines(s.K), true);
    }
  }
  if (!dq) return;
  for (int64_t i = 0; i < rows; i += kTileWidth) {
    const Band seen = keys_seen(bounds, q0 + i, least(kTileWidth, rows - i), k0, n);
    if (seen.begin >= seen.end) continue;
    const Band band = {seen.begin / kStep<Word> * kStep<Word>, seen.end};
    strips_by_panel<Word>(s.K, n, band, keys.k_transposed + words_of<Word>(k0) * s.K,
                          ds_transposed + i / Word::kNumbers * kKeys + words_of<Word>(band.begin) * kTileWidth,
                          dq + i * whole_lines(s.K), true);
  }
}

void backward_block(const AttentionBackward& f, SeenBounds bounds, const float* lse, PackedKeys keys,
                    PackedQueries queries, int64_t q0, int64_t k0, float* dq, float* dk, float* dv, float* scratch) {
  (f.sizes.pairs ? block_of<BFloat16Pair> : block_of<Float32>)(f, bounds, lse, keys, queries, q0, k0, dq, dk, dv,
                                                               scratch);
}

// The end of the queries that see keys [k0, k0 + kKeys).
int64_t last_query(const AttentionSizes& s, SeenBounds bounds, int64_t k0) {
  return bounds.end_query[least(s.T, k0 + kKeys) - 1];
}

void store_panels(const float* x, int64_t n, int64_t width, float factor, float* y, int64_t y_row) {
  for (int64_t i = 0; i < n; i += kTileWidth)
    unpack_panel(x + i * whole_lines(width), least(kTileWidth, n - i), width, {splat(factor), splat(factor)},
                 y + i * y_row, y_row);
}
void store_queries(const AttentionBackward& f, int64_t b, int64_t h, int64_t q0, int64_t n, const float* dq) {
  const auto& s = f.sizes;
  store_panels(dq, n, s.K, f.scale, f.dq + ((b * s.T + q0) * s.H + h) * s.K, s.H * s.K);
}

template <class Word>
void pack_keys(const AttentionBackward& f, int64_t b, int64_t g, int64_t k0, PackedKeys keys) {
  const auto& s = f.sizes;
  const int64_t n = least(kKeys, s.T - k0), head = (b * s.T + k0) * s.G + g, k_row = s.G * s.K, v_row = s.G * s.Kv;
  const float *k = f.k + head * s.K, *v = f.v + head * s.Kv;
  for (int64_t j = 0; j < n; j += kTileWidth) {
    const int64_t columns = least(kTileWidth, n - j);
    panel_of<Word>(k + j * k_row, 1, k_row, columns, s.K, 1, keys.k + (k0 + j) * words_of<Word>(s.K));
    panel_of<Word>(v + j * v_row, 1, v_row, columns, s.Kv, 1, keys.v + (k0 + j) * words_of<Word>(s.Kv));
  }
  transposed_strips_of<Word>(k, k_row, s.K, n, keys.k_transposed + words_of<Word>(k0) * s.K);
}

template <class Word>
void pack_queries(const AttentionBackward& f, int64_t b, int64_t h, int64_t q0, PackedQueries queries, float* scratch) {
  const auto& s = f.sizes;
  const int64_t n = least(kQueries, s.T - q0), head = (b * s.T + q0) * s.H + h, v_row = whole_lines(s.Kv);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = head + i * s.H;
    queries.delta[q0 + i] = gate_backward(s, f.gate + at * s.gate_width, f.dy + at * s.Kv, f.o + at * s.Kv,
                                          scratch + i * v_row, f.dgate + at * s.gate_width);
  }
  const float* q = f.q + head * s.K;
  strips_of<Word>(q, s.H * s.K, n, s.K, queries.q + q0 * words_of<Word>(s.K));
  transposed_strips_of<Word>(q, s.H * s.K, s.K, n, queries.q_transposed + words_of<Word>(q0) * s.K);
  strips_of<Word>(scratch, v_row, n, s.Kv, queries.d_o + q0 * words_of<Word>(s.Kv));
  transposed_strips_of<Word>(scratch, v_row, s.Kv, n, queries.d_o_transposed + words_of<Word>(q0) * s.Kv);
}

}  // namespace

void attention_pack_keys(const AttentionBackward& f, int64_t b, int64_t g, int64_t k0, PackedKeys keys) {
  (f.sizes.pairs ? pack_keys<BFloat16Pair> : pack_keys<Float32>)(f, b, g, k0, keys);
}

void attention_pack_queries(const AttentionBackward& f, int64_t b, int64_t h, int64_t q0, PackedQueries queries,
                            float* scratch) {
  (f.sizes.pairs ? pack_queries<BFloat16Pair> : pack_queries<Float32>)(f, b, h, q0, queries, scratch);
}

// The whole of one query head; dk and dv of its key head, in packed rows, go on from the head before.
void attention_backward_head(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h, PackedKeys keys,
                             PackedQueries queries, float* dk, float* dv, float* scratch) {
  const auto& s = f.sizes;
  const int64_t k_row = whole_lines(s.K), v_row = whole_lines(s.Kv);
  const float* lse = f.lse + (b * s.H + h) * s.T;
  float* dq = scratch + block_floats(s.Kv);
  zero(dq, padded_rows(s.T) * k_row);
  for (int64_t k0 = 0; k0 < s.T; k0 += kKeys)
    for (int64_t q0 = k0 / kQueries * kQueries; q0 < last_query(s, bounds, k0); q0 += kQueries)
      backward_block(f, bounds, lse, keys, queries, q0, k0, dq + q0 * k_row, dk + k0 * k_row, dv + k0 * v_row, scratch);
  store_queries(f, b, h, 0, s.T, dq);
}

// What one query head adds to dk and dv of keys [k0, k0 + kKeys).
void attention_backward_keys(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h, int64_t k0,
                             PackedKeys keys, PackedQueries queries, float* dk, float* dv, float* scratch) {
  const auto& s = f.sizes;
  const float* lse = f.lse + (b * s.H + h) * s.T;
  for (int64_t q0 = k0 / kQueries * kQueries; q0 < last_query(s, bounds, k0); q0 += kQueries)
    backward_block(f, bounds, lse, keys, queries, q0, k0, nullptr, dk, dv, scratch);
}

void attention_backward_queries(const AttentionBackward& f, SeenBounds bounds, int64_t b, int64_t h, int64_t q0,
                                PackedKeys keys, PackedQueries queries, float* scratch) {
  const auto& s = f.sizes;
  const int64_t rows = least(kQueries, s.T - q0);
  const float* lse = f.lse + (b * s.H + h) * s.T;
  float* dq = scratch + block_floats(s.Kv);
  zero(dq, kQueries * whole_lines(s.K));
  for (int64_t k0 = bounds.first_key[q0] / kKeys * kKeys; k0 < q0 + rows; k0 += kKeys)
    backward_block(f, bounds, lse, keys, queries, q0, k0, dq, nullptr, nullptr, scratch);
  store_queries(f, b, h, q0, rows, dq);
}

void attention_store_keys(const AttentionBackward& f, int64_t b, int64_t g, int64_t k0, int64_t n, const float* dk,
                          const float* dv) {
  const auto& s = f.sizes;
  const int64_t head = (b * s.T + k0) * s.G + g;
  store_panels(dk, n, s.K, f.scale, f.dk + head * s.K, s.G * s.K);
  store_panels(dv, n, s.Kv, 1, f.dv + head * s.Kv, s.G * s.Kv);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

// Scratch, in floats, and how the work is cut. Whole key heads are five products a block, halves of the work seven.
struct Plan {
  int64_t bounds, pairs, rep, key_row, value_row, key_blocks, query_blocks;
  int64_t keys, queries, sums, block;  // sizes of: packed keys, packed queries, dk and dv, a worker's scratch
  bool halves;

  Plan(int64_t B, int64_t T, int64_t H, int64_t G, int64_t K, int64_t Kv)
      : bounds(bounds_floats(B, T)),
        pairs(B * G),
        rep(H / std::max<int64_t>(G, 1)),
        key_row(whole_lines(K)),
        value_row(whole_lines(Kv)) {
    const int64_t threads = num_threads();
    key_blocks = parts_of(T, kKeys);
    query_blocks = parts_of(T, kQueries);
    halves = T > kKeys && 7 * pairs < 5 * threads * parts_of(pairs, threads);
    keys = padded_rows(T) * (2 * key_row + value_row);
    queries = padded_rows(T) * (2 * key_row + 2 * value_row + 1);
    sums = (halves ? kKeys : padded_rows(T)) * (key_row + value_row);
    block = block_floats(Kv) + (halves ? kQueries : padded_rows(T)) * key_row;
  }
  int64_t floats() const {
    return bounds + (halves ? pairs * (keys + rep * queries) + num_threads() * (sums + block)
                            : std::min<int64_t>(pairs, num_threads()) * (keys + queries + sums + block));
  }
  PackedKeys packed_keys(float* at, int64_t T) const {
    float* v = at + padded_rows(T) * key_row;
    return {at, v, v + padded_rows(T) * value_row};
  }
  PackedQueries packed_queries(float* at, int64_t T) const {
    const int64_t q = padded_rows(T) * key_row, d_o = padded_rows(T) * value_row;
    return {at, at + q, at + q + d_o, at + 2 * q + d_o, at + 2 * (q + d_o)};
  }
};

// One item per key head, its query heads in order.
void run_whole(const AttentionBackward& f, const Plan& plan, float* workspace) {
  const int64_t T = f.sizes.T, G = f.sizes.G;
  parallel_items(plan.pairs, [&](int64_t pair, int worker) {
    const int64_t b = pair / G, g = pair % G;
    const SeenBounds bounds = bounds_of(workspace, T, b);
    float* at = workspace + plan.bounds + worker * (plan.keys + plan.queries + plan.sums + plan.block);
    const PackedKeys keys = plan.packed_keys(at, T);
    const PackedQueries queries = plan.packed_queries(at += plan.keys, T);
    float *dk = at += plan.queries, *dv = dk + padded_rows(T) * plan.key_row, *scratch = dk + plan.sums;
    std::fill(dk, scratch, 0.f);
    for (int64_t k0 = 0; k0 < T; k0 += kKeys) ATTNEDIT_BEST(attention_pack_keys)(f, b, g, k0, keys);
    for (int64_t h = g * plan.rep; h < (g + 1) * plan.rep; ++h) {
      for (int64_t q0 = 0; q0 < T; q0 += kQueries) ATTNEDIT_BEST(attention_pack_queries)(f, b, h, q0, queries, scratch);
      ATTNEDIT_BEST(attention_backward_head)(f, bounds, b, h, keys, queries, dk, dv, scratch);
    }
    ATTNEDIT_BEST(attention_store_keys)(f, b, g, 0, T, dk, dv);
  });
}

void run_halves(const AttentionBackward& f, const Plan& plan, float* workspace) {
  const int64_t T = f.sizes.T, H = f.sizes.H, G = f.sizes.G;
  const int64_t heads = plan.pairs * plan.rep, pair_stride = plan.keys + plan.rep * plan.queries;
  float *packed = workspace + plan.bounds, *scratch = packed + plan.pairs * pair_stride;
  const auto bounds = [&](int64_t b) { return bounds_of(workspace, T, b); };
  const auto keys_of = [&](int64_t pair) { return plan.packed_keys(packed + pair * pair_stride, T); };
  const auto queries_of = [&](int64_t head) {
    return plan.packed_queries(packed + head / plan.rep * pair_stride + plan.keys + head % plan.rep * plan.queries, T);
  };
  parallel_items(plan.pairs * plan.key_blocks, [&](int64_t item, int) {
    const int64_t pair = item / plan.key_blocks;
    ATTNEDIT_BEST(attention_pack_keys)(f, pair / G, pair % G, item % plan.key_blocks * kKeys, keys_of(pair));
  });
  parallel_items(heads * plan.query_blocks, [&](int64_t item, int worker) {
    const int64_t head = item / plan.query_blocks;
    ATTNEDIT_BEST(attention_pack_queries)
    (f, head / H, head % H, item % plan.query_blocks * kQueries, queries_of(head),
     scratch + worker * (plan.sums + plan.block));
  });
  // The first keys are seen by the most queries, and the last queries see the most keys: they go first.
  parallel_items(plan.pairs * plan.key_blocks, [&](int64_t item, int worker) {
    const int64_t pair = item % plan.pairs, k0 = item / plan.pairs * kKeys;
    float* dk = scratch + worker * (plan.sums + plan.block);
    float *dv = dk + kKeys * plan.key_row, *rest = dk + plan.sums;
    std::fill(dk, rest, 0.f);
    for (int64_t head = pair * plan.rep; head < (pair + 1) * plan.rep; ++head) ATTNEDIT_BEST(attention_backward_keys)
    (f, bounds(head / H), head / H, head % H, k0, keys_of(pair), queries_of(head), dk, dv, rest);
    ATTNEDIT_BEST(attention_store_keys)(f, pair / G, pair % G, k0, std::min(kKeys, T - k0), dk, dv);
  });
  parallel_items(heads * plan.query_blocks, [&](int64_t item, int worker) {
    const int64_t head = item % heads, q0 = (plan.query_blocks - 1 - item / heads) * kQueries;
    ATTNEDIT_BEST(attention_backward_queries)
    (f, bounds(head / H), head / H, head % H, q0, keys_of(head / plan.rep), queries_of(head),
     scratch + worker * (plan.sums + plan.block));
  });
}

}  // namespace

int64_t attention_backward_workspace(int64_t B, int64_t T, int64_t H, int64_t G, int64_t K, int64_t Kv) {
  return Plan(B, T, H, G, K, Kv).floats();
}

Task attention_backward(View<const float, 4> dy, View<const float, 4> q, View<const float, 4> k, View<const float, 4> v,
                        View<const float, 4> gate, View<const int32_t, 2> starts, AttentionOptions options,
                        View<const float, 4> o, View<const float, 3> lse, View<float, 4> dq, View<float, 4> dk,
                        View<float, 4> dv, View<float, 4> dgate, View<float, 1> workspace) {
  const char* op = "attention_backward";
  const AttentionSizes sizes = checked_sizes(op, q, k, v, gate, options);
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), G = k.dim(2), K = q.dim(3), Kv = v.dim(3);
  check_shape(op, "dy", dy, {B, T, H, Kv});
  check_shape(op, "o", o, {B, T, H, Kv});
  check_shape(op, "lse", lse, {B, H, T});
  check_starts(op, starts, B, T);
  check_shape(op, "dq", dq, q.shape);
  check_shape(op, "dk", dk, k.shape);
  check_shape(op, "dv", dv, v.shape);
  ATTNEDIT_CHECK(!dgate == !gate, op, "dgate must be given with a gate, and only then");
  if (dgate) check_shape(op, "dgate", dgate, gate.shape);
  const Plan plan(B, T, H, G, K, Kv);
  check_workspace(op, workspace, plan.floats());

  const AttentionBackward f{sizes,    dy.data, q.data,  k.data,  v.data,     gate.data,    o.data,
                            lse.data, dq.data, dk.data, dv.data, dgate.data, options.scale};
  return Task([=] {
           fill_bounds(starts, options.window, B, T, workspace.data);
           (plan.halves ? run_halves : run_whole)(f, plan, workspace.data);
         })
      .needing(2 * H * visible_pairs(starts, options.window, B, T) * (3 * K + 2 * Kv));
}

}  // namespace attnedit::kernels
#endif
