#pragma once

// What packed_tile multiplies, out of matrices as they lie and back. A word (simd/tile.h) holds Word::kNumbers numbers
// of neighbouring k; where K is odd, the last pair's second one is zero.

#include "simd/stored.h"
#include "simd/tile.h"
#include "simd/transpose.h"

namespace {

// What is packed often comes from far, in strides that the processor does not foresee: it is asked for this far ahead.
constexpr int64_t kAhead = 3 * kLanes, kRowsAhead = 4;

// Numbers First, First + 2, ... of two vectors.
template <int First, size_t... Lane>
inline Vec every_other(Vec a, Vec b, std::index_sequence<Lane...>) {
  return __builtin_shufflevector(a, b, (First + 2 * Lane)...);
}

// A vector of words: of numbers that lie side by side, times alpha, and of two rows whose k are neighbours.
template <class Word, class Stored>
inline Vec words_along(const Stored* x, float alpha) {
  const Vec x_0 = numbers(x) * alpha;
  if constexpr (Word::kNumbers == 1) return x_0;
  const Vec x_1 = numbers(x + kLanes) * alpha;
  constexpr auto lanes = std::make_index_sequence<kLanes>();
  return pairs(every_other<0>(x_0, x_1, lanes), every_other<1>(x_0, x_1, lanes));
}
template <class Word>
inline Vec words_across(Vec row, [[maybe_unused]] Vec next) {
  if constexpr (Word::kNumbers == 1)
    return row;
  else
    return pairs(row, next);
}
template <class Word>
inline void store_word(float* packed, float x, float next) {
  if constexpr (Word::kNumbers == 1)
    *packed = x;
  else
    store_part(packed, pairs(splat(x), splat(next)), 1);
}

// A strip (words, rows) of A(i, k) = a[i * row + k * column], times alpha.
template <class Word>
inline void strip_of(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha, float* packed) {
  constexpr int kNumbers = Word::kNumbers;
  const int64_t words = words_of<Word>(K);
  const float* const end = packed + rows * words;
  int64_t w = 0;
  if (row == 1) {
    // A vector runs over into the next word, which comes later and overwrites it; but not into the next strip.
    for (; (w + 1) * kNumbers <= K && rows <= kLanes && packed + w * rows + kLanes <= end; ++w) {
      const float* a_k = a + w * kNumbers * column;
      store(packed + w * rows, words_across<Word>(load(a_k) * alpha, load(a_k + (kNumbers - 1) * column) * alpha));
    }
  } else if (kStripRows<Word> <= kLanes) {
    for (; (w + kLanes) * kNumbers <= K && packed + (w + kLanes - 1) * rows + kLanes <= end; w += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const float* a_i = a + i * row + w * kNumbers;
        if (i < rows) __builtin_prefetch(a_i + kAhead * kNumbers);
        block[i] = i < rows ? words_along<Word>(a_i, alpha) : Vec{};
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(packed + (w + i) * rows, block[i]);
    }
  }
  for (; w < words; ++w)
    for (int64_t i = 0; i < rows; ++i) {
      const float* a_i = a + i * row + w * kNumbers * column;
      store_word<Word>(packed + w * rows + i, *a_i * alpha, w * kNumbers + 1 < K ? a_i[column] * alpha : 0);
    }
}

// All strips of M rows, one after the other: the one that begins with row m is at packed + m * words_of(K).
template <class Word>
inline void strips_of(const float* a, int64_t row, int64_t M, int64_t K, float* packed) {
  for (int64_t m = 0; m < M; m += kStripRows<Word>)
    strip_of<Word>(a + m * row, row, 1, least(kStripRows<Word>, M - m), K, 1, packed + m * words_of<Word>(K));
}

// The same for the transpose of K rows of a: each is read once, from its beginning to its end.
template <class Word>
inline void transposed_strips_of(const float* a, int64_t row, int64_t M, int64_t K, float* packed) {
  constexpr int kVecs = (kTileRows + kLanes - 1) / kLanes;
  const int64_t words = words_of<Word>(K);
  for (int64_t w = 0; w < words; ++w, a += row * Word::kNumbers) {
    const bool whole = (w + 1) * Word::kNumbers <= K;
    const float* next = whole ? a + row * (Word::kNumbers - 1) : a;
    for (int64_t m = 0; m < M; m += kLanes)
      for (int n = 0; n < Word::kNumbers; ++n) __builtin_prefetch(a + (kRowsAhead + n) * row + m);
    for (int64_t m = 0; m < M; m += kTileRows) {
      const int64_t rows = least(kTileRows, M - m);
      float* y = packed + m * words + w * rows;
      if (whole && (words - w) * rows >= kVecs * kLanes) {
        // Runs over into the next word, which comes later and overwrites it; but not into the next strip.
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v)
          store(y + v * kLanes, words_across<Word>(load(a + m + v * kLanes), load(next + m + v * kLanes)));
      } else {
        for (int64_t i = 0; i < rows; ++i) store_word<Word>(y + i, a[m + i], whole ? next[m + i] : 0);
      }
    }
  }
}

// A panel (words, kTileWidth) of B(k, j) = b[k * row + j * column], times alpha, filled up with zeros.
template <class Word, class Stored>
inline void panel_of(const Stored* b, int64_t row, int64_t column, int64_t columns, int64_t K, float alpha,
                     float* packed) {
  constexpr int kNumbers = Word::kNumbers;
  const int64_t words = words_of<Word>(K);
  int64_t w = 0;
  if (column == 1) {
    for (; (w + 1) * kNumbers <= K; ++w) {
      const Stored *b_k = b + w * kNumbers * row, *next = b_k + (kNumbers - 1) * row;
      float* y = packed + w * kTileWidth;
      int64_t j = 0;
      for (; j + kLanes <= columns; j += kLanes)
        store(y + j, words_across<Word>(numbers(b_k + j) * alpha, numbers(next + j) * alpha));
      for (; j < columns; ++j) store_word<Word>(y + j, number(b_k + j) * alpha, number(next + j) * alpha);
      for (; j < kTileWidth; ++j) y[j] = 0;
    }
  } else {
    for (; (w + kLanes) * kNumbers <= K; w += kLanes)
      for (int64_t first = 0; first < kTileWidth; first += kLanes) {
        Vec block[kLanes];
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) {
          const Stored* b_j = b + (first + j) * column + w * kNumbers;
          if (first + j < columns) __builtin_prefetch(b_j + kAhead * kNumbers);
          block[j] = first + j < columns ? words_along<Word>(b_j, alpha) : Vec{};
        }
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) store(packed + (w + i) * kTileWidth + first, block[i]);
      }
  }
  for (; w < words; ++w)
    for (int64_t j = 0; j < kTileWidth; ++j) {
      const Stored* b_j = b + w * kNumbers * row + j * column;
      store_word<Word>(packed + w * kTileWidth + j, j < columns ? number(b_j) * alpha : 0,
                       j < columns && w * kNumbers + 1 < K ? number(b_j + row) * alpha : 0);
    }
}

// Rows [begin, end) of a panel of numbers become its words in place, in rows words_of(begin) and on: begin is even, and
// an odd end is followed by a zero.
template <class Word>
inline void panel_to_words(float* panel, int64_t begin, int64_t end) {
  if constexpr (Word::kNumbers == 2)
    for (int64_t k = begin; k < end; k += 2)
      for (int v = 0; v < kTileWidth; v += kLanes) {
        const float* x = panel + k * kTileWidth + v;
        store(panel + k / 2 * kTileWidth + v, pairs(load(x), k + 1 < end ? load(x + kTileWidth) : Vec{}));
      }
}

// Back to rows: y(j, k) = panel(k, j) * factor[j] for j < columns. The panel is read up to whole vectors of k.
[[maybe_unused]] inline void unpack_panel(const float* panel, int64_t columns, int64_t K, const Vec (&factors)[2],
                                          float* y, int64_t y_row) {
  for (int64_t k = 0; k < K; k += kLanes)
    for (int v = 0; v < 2; ++v) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = load(panel + (k + i) * kTileWidth + v * kLanes) * factors[v];
      transpose(block);
      const int64_t count = least(kLanes, columns - v * kLanes);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        if (j >= count) break;
        float* y_j = y + (v * kLanes + j) * y_row + k;
        __builtin_prefetch(y_j + kAhead, 1);
        K - k >= kLanes ? store(y_j, block[j]) : store_part(y_j, block[j], K - k);
      }
    }
}

// A panel C (M x kTileWidth) (+)= A(:, k) B(k, :) for the k in a range, of strips of A (M x K) and the words of a panel
// of B from k.begin on, a multiple of kStep. In pairs A or B is zero beyond an odd end.
template <class Word>
inline void strips_by_panel(int64_t M, int64_t K, Band k, const float* a, const float* b, float* c, bool accumulate) {
  const int64_t words = words_of<Word>(K);
  const Band band = {k.begin / Word::kNumbers, words_of<Word>(k.end)};
  for (int64_t m = 0; m < M; m += kStripRows<Word>)
    strip_by_panel<Word>(least(kStripRows<Word>, M - m), words, band, a + m * words, b, c + m * kTileWidth, kTileWidth,
                         accumulate);
}

}  // namespace

// Where the processor has matrix tiles, strips of pairs lie otherwise.
#if defined(__AMX_BF16__)
#include "simd/matrix_tile.h"
#endif
