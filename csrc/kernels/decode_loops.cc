#include "kernels/decode_loops.h"

namespace attnedit::kernels {
namespace {

// What a chunk leaves: sums (columns x v_row), then top and total (columns each).
[[maybe_unused]] constexpr int64_t partial_floats(const Decode& d) { return d.columns * (d.v_row + 2); }
[[maybe_unused]] constexpr int64_t packed_floats(const Decode& d) { return d.columns * d.k_row; }

}  // namespace
}  // namespace attnedit::kernels

#ifdef ATTNEDIT_ISA
namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// Some positions of a cache as float32: position j, key head g at data + j * row + g * head, readable to whole vectors.
struct Rows {
  const float* data;
  int64_t row, head;
};

Rows staged(const Cached& cache, int64_t G, int64_t first, int64_t n, int64_t padded, float* space) {
  const int64_t width = cache.width, begin = first * G * width, rows = n * G;
  if (!cache.halves && width == padded) return {static_cast<const float*>(cache.data) + begin, G * width, width};
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = begin + i * width;
    float* y = space + i * padded;
    if (!cache.halves)
      std::memcpy(y, static_cast<const float*>(cache.data) + at, width * sizeof(float));
    else if (cache.bfloat16)
      widen_bfloat16(static_cast<const uint16_t*>(cache.data) + at, y, width);
    else
      widen_float16(static_cast<const uint16_t*>(cache.data) + at, y, width);
    for (int64_t j = width; j < padded; ++j) y[j] = 0;
  }
  return {space, G * padded, padded};
}

// Numbers [0, width) of n positions of the one key head as words, two positions to a word; the last may be alone.
Rows zipped(const Cached& cache, int64_t first, int64_t n, int64_t width, int64_t padded, float* space) {
  const auto* low = static_cast<const uint16_t*>(cache.data) + first * cache.width;
  float* y = space;
  for (int64_t j = 0; j < n; j += 2, low += 2 * cache.width, y += padded) {
    const uint16_t* high = low + cache.width;
    int64_t i = 0;
    if (j + 1 < n)
      for (; i + 2 * kLanes <= width; i += 2 * kLanes)
        zip_bfloat16(low + i, high + i, y + i, std::make_index_sequence<2 * kLanes>());
    for (; i < padded; ++i) {
      const uint32_t word = i >= width ? 0 : low[i] | (j + 1 < n ? static_cast<uint32_t>(high[i]) << 16 : 0);
      std::memcpy(y + i, &word, sizeof word);
    }
  }
  return {space, padded, padded};
}

// The next block of keys, which the tiles ask memory for, a line at a time, while they compute this one: the
// processor's own prefetching does not follow so many rows at once.
struct Ahead {
  const char* at;
  int64_t lines;

  // Where the next count lines begin; after the last, the same place over and over, which costs next to nothing.
  const char* next(int64_t count) {
    const char* begin = at;
    if (lines > 0) at += 64 * count, lines -= count;
    return begin;
  }
};

// The scores of Positions rows of keys against Heads queries, each a row of k_row numbers.
template <int Heads, int Positions>
void dots(const float* q, int64_t k_row, const float* keys, int64_t row, float* p, int64_t columns) {
  Vec sums[Heads][Positions] = {};
  for (int64_t k = 0; k < k_row; k += kLanes) {
    Vec key[Positions];
#pragma GCC unroll 4
    for (int i = 0; i < Positions; ++i) key[i] = load(keys + i * row + k);
#pragma GCC unroll 2
    for (int h = 0; h < Heads; ++h) {
      const Vec q_k = load(q + h * k_row + k);
#pragma GCC unroll 4
      for (int i = 0; i < Positions; ++i) sums[h][i] += q_k * key[i];
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 4
    for (int i = 0; i < Positions; ++i) p[i * columns + h] = sum(sums[h][i]);
}

template <int Positions>
void few_scores(const Decode& d, const float* q, const Rows& keys, int64_t j, float* p) {
  for (int64_t g = 0; g < d.sizes.G; ++g) {
    const float* keys_g = keys.data + j * keys.row + g * keys.head;
    int64_t m = g * d.group;
    const int64_t end = m + d.group;
    for (; m + 2 <= end; m += 2) dots<2, Positions>(q + m * d.k_row, d.k_row, keys_g, keys.row, p + m, d.columns);
    if (m < end) dots<1, Positions>(q + m * d.k_row, d.k_row, keys_g, keys.row, p + m, d.columns);
  }
}

// Queries are packed in panels: kTileWidth columns while a key head has them, then kLanes.
int64_t panel_width(const Decode& d, int64_t column) {
  return d.group - column % d.group >= kTileWidth ? kTileWidth : kLanes;
}

// p (n x columns) = keys (n x K) times the packed queries. The keys, as they lie, are the left-hand side.
template <class Word>
void wide_scores(const Decode& d, const float* q, const Rows& keys, int64_t n, float* p, Ahead& ahead) {
  const int64_t words = words_of<Word>(d.sizes.K);
  // Chains enough to hide the latency of an addition; the addresses of more rows do not fit the registers.
  constexpr int64_t kTall = 12;
  for (int64_t m = 0, panel; m < d.columns; m += panel) {
    panel = panel_width(d, m);
    const float* a = keys.data + m / d.group * keys.head;
    const float* b = q + m * words;
    int64_t j = 0;
    if (panel == kLanes)
      for (; j + kTall <= n; j += kTall)
        tile<Word, kTall, 1, true>(words, a + j * keys.row, keys.row, 1, b, panel, p + j * d.columns + m, d.columns,
                                   false, ahead.next(words));
    const auto rest = panel == kLanes ? &tile_of<Word, 1, kTileRows, true> : &tile_of<Word, 2, kTileRows, true>;
    for (; j < n; j += kTileRows)
      rest(least(kTileRows, n - j), words, a + j * keys.row, keys.row, 1, b, panel, p + j * d.columns + m, d.columns,
           false, ahead.next(words));
  }
}

// Scores of n positions become 2^(score - top), in every column; sums shrink to the new tops.
void softmax_columns(const Decode& d, int64_t n, float* p, float* sums, float* top, float* total) {
  for (int64_t m = 0; m < d.columns; m += kLanes) {
    const Vec old = load(top + m);
    Vec now = old, added{};
    for (int64_t j = 0; j < n; ++j) now = max(now, load(p + j * d.columns + m));
    for (int64_t j = 0; j < n; ++j) {
      const Vec weight = exp2(load(p + j * d.columns + m) - now);
      store(p + j * d.columns + m, weight);
      added += weight;
    }
    store(top + m, now);
    if (max_lane(old == now ? Vec{} : splat(1)) == 0) {
      store(total + m, load(total + m) + added);
      continue;
    }
    float shrink[kLanes];
    store(shrink, exp2(old - now));
    store(total + m, load(total + m) * load(shrink) + added);
    for (int64_t i = 0; i < kLanes; ++i)
      for (int64_t j = 0; j < d.v_row; j += kLanes) {
        float* sums_j = sums + (m + i) * d.v_row + j;
        store(sums_j, load(sums_j) * shrink[i]);
      }
  }
}

// Weights of n positions become words of two positions, in place.
void pair_weights(const Decode& d, int64_t n, float* p) {
  for (int64_t j = 0; j < n; j += 2)
    for (int64_t m = 0; m < d.columns; m += kLanes) {
      const float* p_j = p + j * d.columns + m;
      store(p + j / 2 * d.columns + m, pairs(load(p_j), j + 1 < n ? load(p_j + d.columns) : Vec{}));
    }
}

// sums (rows x v_row) += p^T values (n words x v_row) of one key head, in tiles as wide as the registers allow. A panel
// of values stays in the first-level cache while the rows pass by.
template <class Word, int Vecs>
void add_values(const Decode& d, int64_t rows, int64_t n, const float* p, const float* values, int64_t row, float* sums,
                Ahead& ahead) {
  constexpr int kRows = 2 * kTileRows / Vecs;
  const int64_t parts = (rows + kRows - 1) / kRows, part = (rows + parts - 1) / parts, width = d.v_row;
  for (int64_t i = 0; i < width; i += Vecs * kLanes)
    for (int64_t m = 0; m < rows; m += part) {
      const int64_t count = least(part, rows - m);
      float* c = sums + m * width + i;
      if (width - i >= Vecs * kLanes)
        tile_of<Word, Vecs, kRows, true>(count, n, p + m, 1, d.columns, values + i, row, c, width, true, ahead.next(n));
      else
        for (int64_t v = 0; i + v < width; v += kLanes)
          tile_of<Word, 1, kRows>(count, n, p + m, 1, d.columns, values + i + v, row, c + v, width, true);
    }
}

}  // namespace

void decode_pack(const Decode& d, int64_t b, float* q) {
  const auto& s = d.sizes;
  const int64_t per_head = s.H / s.G, row = d.wide ? s.K : d.k_row, numbers = s.pairs ? 2 : 1;
  const float factor = d.scale * kLog2E;
  for (int64_t i = 0; i < d.columns * row; ++i) q[i] = 0;
  for (int64_t t = 0; t < s.T; ++t)
    for (int64_t h = 0; h < s.H; ++h) {
      const int64_t column = h / per_head * d.group + t * per_head + h % per_head, at = (b * s.T + t) * s.H + h;
      const int64_t start = column - column % d.group % kTileWidth, panel = panel_width(d, start);
      float* y = d.wide ? q + start * row / numbers + column - start : q + column * row;
      const int64_t step = d.wide ? panel : 1, own = s.K - d.rest;
      const auto number = [&](int64_t k) {
        return factor * (k < own ? d.q[at * own + k] : d.q_rest[at * d.rest + k - own]);
      };
      if (s.pairs)
        for (int64_t k = 0; k < s.K; k += 2)
          store_part(y + k / 2 * step, pairs(splat(number(k)), splat(number(k + 1))), 1);
      else
        for (int64_t k = 0; k < s.K; ++k) y[k * step] = number(k);
    }
}

void decode_chunk(const Decode& d, int64_t b, int64_t begin, int64_t end, int64_t seen, const float* q, float* partial,
                  float* scratch) {
  const auto& s = d.sizes;
  float* p = scratch;
  float* key_space = p + d.block * d.columns;
  float* value_space = key_space + d.block * s.G * d.k_row;
  float* sums = partial;
  float* top = sums + d.columns * d.v_row;
  float* total = top + d.columns;
  for (int64_t i = 0; i < d.columns * d.v_row; ++i) sums[i] = 0;
  for (int64_t i = 0; i < d.columns; ++i) top[i] = kUnseen, total[i] = 0;
  for (int64_t i = 0; i < d.block * d.columns; ++i) p[i] = 0;  // the columns that no query has

  for (int64_t j0 = begin; j0 < end; j0 += d.block) {
    const int64_t n = least(d.block, end - j0), at = b * d.S + j0;
    // Stored bfloat16 pairs are multiplied as they lie: those of neighbouring numbers in keys, zipped ones in values.
    const auto* pairs = static_cast<const float*>(d.keys.data) + at * s.K / 2;
    const Rows keys = s.pairs ? Rows{pairs, s.K / 2, s.K / 2} : staged(d.keys, s.G, at, n, d.k_row, key_space);
    const Rows values = s.pairs             ? zipped(d.keys, at, n, s.Kv, d.v_row, value_space)
                        : d.separate_values ? staged(d.values, s.G, at, n, d.v_row, value_space)
                                            : keys;
    const int64_t row_bytes = s.G * s.K * (d.keys.halves ? 2 : 4);
    Ahead ahead{static_cast<const char*>(d.keys.data) + (at + n) * row_bytes,
                least(d.block, d.S - j0 - n) * row_bytes / 64};
    if (d.wide) {
      (s.pairs ? wide_scores<BFloat16Pair> : wide_scores<Float32>)(d, q, keys, n, p, ahead);
    } else {
      int64_t j = 0;
      for (; j + 4 <= n; j += 4) few_scores<4>(d, q, keys, j, p + j * d.columns);
      for (; j < n; ++j) few_scores<1>(d, q, keys, j, p + j * d.columns);
    }
    for (int64_t j = most(0, seen - j0); j < n; ++j)
      for (int64_t g = 0; g < s.G; ++g)
        for (int64_t m = 0; m < least(s.T, j0 + j - seen + 1) * (s.H / s.G); ++m)
          p[j * d.columns + g * d.group + m] = kUnseen;
    softmax_columns(d, n, p, sums, top, total);
    if (s.pairs) pair_weights(d, n, p);
    const int64_t rows = s.T * (s.H / s.G), words = s.pairs ? words_of<BFloat16Pair>(n) : n;
    const auto add = s.pairs                     ? &add_values<BFloat16Pair, 2>
                     : rows * 8 <= 2 * kTileRows ? &add_values<Float32, 8>
                     : rows * 4 <= 2 * kTileRows ? &add_values<Float32, 4>
                                                 : &add_values<Float32, 2>;
    for (int64_t g = 0; g < s.G; ++g)
      add(d, rows, words, p + g * d.group, values.data + g * values.head, values.row, sums + g * d.group * d.v_row,
          ahead);
  }
}

void decode_merge(const Decode& d, int64_t b, int64_t t, int64_t h, int64_t chunks, const float* partials) {
  const auto& s = d.sizes;
  const int64_t per_head = s.H / s.G, column = h / per_head * d.group + t * per_head + h % per_head;
  const int64_t at = (b * s.T + t) * s.H + h;
  const float* tops = partials + d.columns * d.v_row + column;
  float top = kUnseen, total = 0, weights[kMostChunks];
  for (int64_t c = 0; c < chunks; ++c) {
    const float top_c = tops[c * partial_floats(d)];
    top = top > top_c ? top : top_c;
  }
  for (int64_t c = 0; c < chunks; ++c) {
    const float* top_c = tops + c * partial_floats(d);
    weights[c] = exp2(splat(top_c[0] - top))[0];
    total += weights[c] * top_c[d.columns];
  }
  float* o = d.o + at * s.Kv;
  const float share = chunks ? 1 / total : 0;
  for (int64_t j = 0; j < s.Kv; j += kLanes) {
    Vec sum{};
    for (int64_t c = 0; c < chunks; ++c)
      sum += weights[c] * load(partials + c * partial_floats(d) + column * d.v_row + j);
    store_row(o, j, s.Kv, sum * share);
  }
  if (s.gate_width) apply_gate(s, d.gate + at * s.gate_width, o, o);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kChunkFloats = 1 << 17;  // of cache: much more than a partial result has

int64_t up(int64_t n, int64_t step) { return parts_of(n, step) * step; }

// Positions to a chunk of a sequence of n. It depends on nothing else, so that neither the threads, nor the sequence's
// neighbours in the batch, nor the room in the cache change a bit of the result.
int64_t chunk_length(const Decode& d, int64_t n) {
  const auto& s = d.sizes;
  const int64_t floats = s.G * (s.K + (d.separate_values ? s.Kv : 0));
  return up(std::max({kChunkFloats / std::max<int64_t>(floats, 1), parts_of(n, kMostChunks), d.block}), d.block);
}
int64_t chunks_of(const Decode& d, int64_t n) { return parts_of(n, chunk_length(d, n)); }

int64_t most_chunks(const Decode& d) { return std::min(kMostChunks, chunks_of(d, d.S)); }

int64_t worker_floats(const Decode& d) { return whole_lines(d.block * (d.columns + d.sizes.G * (d.k_row + d.v_row))); }

}  // namespace

Decode planned(Decode d) {
  const auto& s = d.sizes;
  const int64_t queries = s.T * (s.H / s.G);
  d.wide = queries >= kLine;
  d.group = d.wide ? whole_lines(queries) : queries;
  d.columns = whole_lines(s.G * d.group);
  d.k_row = whole_lines(s.K);
  d.v_row = whole_lines(s.Kv);
  d.block = d.wide ? 48 : 16;
  return d;
}

int64_t decode_workspace(int64_t B, const Decode& d) {
  return B * (packed_floats(d) + most_chunks(d) * partial_floats(d)) + num_threads() * worker_floats(d);
}

void check_lengths(const char* op, View<const int32_t, 1> lengths, int64_t B, int64_t T, int64_t S) {
  check_shape(op, "lengths", lengths, {B});
  for (int64_t b = 0; b < B; ++b) {
    const int64_t n = lengths.data[b];
    ATTNEDIT_CHECK(n == 0 || (n >= T && n <= S), op, "lengths[", b, "] must be 0, or at least ", T,
                   " and at most the cache's ", S, ", got ", n);
  }
}

Task decode(const Decode& d, View<const int32_t, 1> lengths, View<float, 1> workspace) {
  // Of the cache only what is filled; a query sees what lies before it.
  const auto& sizes = d.sizes;
  double pairs = 0, numbers = 1.0 * lengths.dim(0) * sizes.T * sizes.H * (sizes.K + sizes.Kv), stored = 0;
  for (int64_t b = 0; b < lengths.dim(0); ++b) {
    const double n = lengths.data[b], T = static_cast<double>(sizes.T);
    pairs += n > 0 ? T * n - T * (T - 1) / 2 : 0;
    stored += n * sizes.G * (sizes.K + (d.separate_values ? sizes.Kv : 0));
  }
  Task task = [=] {
    const auto& s = d.sizes;
    if (s.T * s.H == 0) return;
    const int64_t B = lengths.dim(0), slots = most_chunks(d);
    float* partials = workspace.data + B * packed_floats(d);
    float* scratch = partials + B * slots * partial_floats(d);
    const auto q = [&](int64_t b) { return workspace.data + b * packed_floats(d); };
    parallel_items(B, [&](int64_t b, int) { ATTNEDIT_BEST(decode_pack)(d, b, q(b)); });
    parallel_items(B * slots, [&](int64_t item, int worker) {
      const int64_t b = item / slots, n = lengths.data[b], length = chunk_length(d, n), begin = item % slots * length;
      if (begin >= n) return;
      ATTNEDIT_BEST(decode_chunk)
      (d, b, begin, std::min(n, begin + length), n - s.T + 1, q(b), partials + item * partial_floats(d),
       scratch + worker * worker_floats(d));
    });
    parallel_for(B * s.T * s.H, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / s.H / s.T;
        ATTNEDIT_BEST(decode_merge)
        (d, b, i / s.H % s.T, i % s.H, chunks_of(d, lengths.data[b]), partials + b * slots * partial_floats(d));
      }
    });
  };
  return std::move(task)
      .needing(2 * pairs * sizes.H * (sizes.K + sizes.Kv))
      .moving(4 * numbers + (d.keys.halves ? 2 : 4) * stored);
}

}  // namespace attnedit::kernels
#endif
