#pragma once

// Products of small matrices that stay in the cache, in register tiles of kTileRows x 2 vectors:
//   C (M x N) (+)= A (M x K) B (K x N)
// Every element of C is one chain of multiply-adds in ascending k, whatever the tile that it falls in. With bfloat16
// operands the sums are float32 too.

#include "simd/vec.h"

namespace {

// 24 (12 with sixteen registers) of the vector registers hold C, two hold a row of B and one an element of A.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileWidth = 2 * kLanes;

[[maybe_unused]] constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
[[maybe_unused]] constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused]] constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// A range of k.
struct Band {
  int64_t begin, end;
};

// Operands consist of words of four bytes: one float32, or two bfloat16 of neighbouring k, which are what the
// processors' bfloat16 dot products take. K numbers make words_of(K) of them.
struct Float32 {
  static constexpr int kNumbers = 1;
};
struct BFloat16Pair {
  static constexpr int kNumbers = 2;
};
template <class Word>
constexpr int64_t words_of(int64_t K) {
  return (K + Word::kNumbers - 1) / Word::kNumbers;
}

// The height of a packed strip, and what number a product of packed operands may begin with: a multiple of kStep. Where
// the processor has matrix tiles, pairs are multiplied in those (simd/matrix_tile.h).
#if defined(__AMX_BF16__)
template <class Word>
constexpr int kStripRows = Word::kNumbers == 2 ? 32 : kTileRows;
template <class Word>
constexpr int kStep = Word::kNumbers == 2 ? 32 : 1;
#else
template <class Word>
constexpr int kStripRows = kTileRows;
template <class Word>
constexpr int kStep = Word::kNumbers;
#endif

// A vector of B's words, ready to be multiplied by many of A's; without dot products in the processor the pairs are
// widened first.
template <class Word>
struct Factor {
  Vec b;
  Factor() = default;
  explicit Factor(const float* words) : b(load(words)) {}
  void add_product(const float* a, Vec& sums) const { sums += *a * b; }
};
template <>
struct Factor<BFloat16Pair> {
  typedef int32_t Bits __attribute__((may_alias));
  static Vec word(const float* a) { return (Vec)(IntVec{} + *reinterpret_cast<const Bits*>(a)); }
#if defined(__AVX512BF16__)
  Vec b;
  Factor() = default;
  explicit Factor(const float* words) : b(load(words)) {}
  void add_product(const float* a, Vec& sums) const {
    sums = (Vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)word(a), (__m512bh)b);
  }
#else
  Vec low, high;
  Factor() = default;
  explicit Factor(const float* words) : low(low_of(load(words))), high(high_of(load(words))) {}
  void add_product(const float* a, Vec& sums) const {
    const Vec pair = word(a);
    sums += low_of(pair) * low;
    sums += high_of(pair) * high;
  }
#endif
};

// With Ahead, every word asks for the next cache line of memory that somebody will read soon: next, next + 64, ...
// bytes.
template <class Word, int Rows, int Vecs, bool Ahead = false>
__attribute__((noinline)) void tile(int64_t words, const float* __restrict a, int64_t a_row, int64_t a_column,
                                    const float* __restrict b, int64_t b_row, float* __restrict c, int64_t c_row,
                                    bool accumulate, const char* next = nullptr) {
  Vec sums[Rows][Vecs];
#pragma GCC unroll 24
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) sums[m][n] = accumulate ? load(c + m * c_row + n * kLanes) : Vec{};
  for (int64_t k = 0; k < words; ++k) {
    if constexpr (Ahead) __builtin_prefetch(next + 64 * k, 0, 2);
    Factor<Word> b_k[Vecs];
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) b_k[n] = Factor<Word>(b + n * kLanes);
#pragma GCC unroll 24
    for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < Vecs; ++n) b_k[n].add_product(a + m * a_row, sums[m][n]);
    a += a_column;
    b += b_row;
  }
#pragma GCC unroll 24
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) store(c + m * c_row + n * kLanes, sums[m][n]);
}

// The tile with exactly this many rows: the last rows of a matrix.
template <class Word, int Vecs, int Rows = kTileRows, bool Ahead = false>
inline void tile_of(int64_t rows, int64_t words, const float* a, int64_t a_row, int64_t a_column, const float* b,
                    int64_t b_row, float* c, int64_t c_row, bool accumulate, const char* next = nullptr) {
  if constexpr (Rows > 1)
    if (rows < Rows)
      return tile_of<Word, Vecs, Rows - 1, Ahead>(rows, words, a, a_row, a_column, b, b_row, c, c_row, accumulate,
                                                  next);
  tile<Word, Rows, Vecs, Ahead>(words, a, a_row, a_column, b, b_row, c, c_row, accumulate, next);
}

// Rows of memory that somebody will read soon, a cache line of which is asked for with every word: the first line of
// 2^log rows, then their second ones, and so on.
struct Asked {
  const char* lines = nullptr;
  int64_t row = 0;
  int log = 0;
  const char* line(int64_t k) const { return lines + (k & ((int64_t{1} << log) - 1)) * row + (k >> log) * 64; }
};

// The product of a packed strip (words, Rows) and a packed panel (words, kTileWidth): constant strides leave the loop
// nothing to do but multiply. C is asked for at the start and needed at the end; what comes next of A and B is asked
// for a few hundred cycles ahead, since the processor's own prefetching often is not enough (the third-level cache is
// far).
template <class Word, int Rows, bool Asks = false>
__attribute__((noinline)) void packed_tile(int64_t words, const float* __restrict a, const float* __restrict b,
                                           float* __restrict c, int64_t c_row, bool accumulate, Asked asked = {}) {
  Vec sums[Rows][2] = {};
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    __builtin_prefetch(c + m * c_row, 1);
    __builtin_prefetch(c + m * c_row + kTileWidth - 1, 1);
  }
  for (int64_t k = 0; k < words; ++k, a += Rows, b += kTileWidth) {
    const Factor<Word> b_0(b), b_1(b + kLanes);
    __builtin_prefetch(b + 16 * kTileWidth);
    __builtin_prefetch(b + 16 * kTileWidth + kLanes);
    __builtin_prefetch(a + 32 * Rows);
    if constexpr (Asks) __builtin_prefetch(asked.line(k), 0, 2);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      b_0.add_product(a + m, sums[m][0]);
      b_1.add_product(a + m, sums[m][1]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    float* c_m = c + m * c_row;
    store(c_m, accumulate ? load(c_m) + sums[m][0] : sums[m][0]);
    store(c_m + kLanes, accumulate ? load(c_m + kLanes) + sums[m][1] : sums[m][1]);
  }
}

template <class Word, int Rows = kTileRows, bool Asks = false>
inline void packed_tile_of(int64_t rows, int64_t words, const float* a, const float* b, float* c, int64_t c_row,
                           bool accumulate, Asked asked = {}) {
  if constexpr (Rows > 1)
    if (rows < Rows) return packed_tile_of<Word, Rows - 1, Asks>(rows, words, a, b, c, c_row, accumulate, asked);
  packed_tile<Word, Rows, Asks>(words, a, b, c, c_row, accumulate, asked);
}

// The same for words [words.begin, words.end) of a strip of strip_words; the panel begins with the first of them.
template <class Word>
inline void strip_by_panel(int64_t rows, int64_t, Band words, const float* strip, const float* panel, float* c,
                           int64_t c_row, bool accumulate) {
  packed_tile_of<Word>(rows, words.end - words.begin, strip + words.begin * rows, panel, c, c_row, accumulate);
}

// What must be alive on a thread while it multiplies packed operands: nothing, unless the processor has matrix tiles.
template <class Word>
struct MatrixTiles {
  MatrixTiles() {}
};

}  // namespace
