#pragma once

// What packed_tile multiplies, out of matrices as they lie and back.

#include "simd/tile.h"
#include "simd/transpose.h"

namespace {

[[maybe_unused]] inline float number(const float* x) { return *x; }
[[maybe_unused]] inline Vec numbers(const float* x) { return load(x); }

// What is packed often comes from far, in strides that the processor does not foresee: it is asked for this far ahead.
constexpr int64_t kAhead = 3 * kLanes, kRowsAhead = 4;

// A strip (K, rows) of A(i, k) = a[i * row + k * column], times alpha.
[[maybe_unused]] inline void strip_of(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha,
                                      float* packed) {
  const float* const end = packed + rows * K;
  int64_t k = 0;
  if (row == 1) {
    // A vector runs over into the next k, which comes later and overwrites it; but not into the next strip.
    for (; k < K && rows <= kLanes && packed + k * rows + kLanes <= end; ++k)
      store(packed + k * rows, load(a + k * column) * alpha);
  } else if (kTileRows <= kLanes) {
    for (; k + kLanes <= K && packed + (k + kLanes - 1) * rows + kLanes <= end; k += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < rows) __builtin_prefetch(a + i * row + k + kAhead);
        block[i] = i < rows ? load(a + i * row + k) * alpha : Vec{};
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(packed + (k + i) * rows, block[i]);
    }
  }
  for (; k < K; ++k)
    for (int64_t i = 0; i < rows; ++i) packed[k * rows + i] = a[i * row + k * column] * alpha;
}

// All strips of M rows, one after the other: the one that begins with row m is at packed + m * K.
[[maybe_unused]] inline void strips_of(const float* a, int64_t row, int64_t M, int64_t K, float* packed) {
  for (int64_t m = 0; m < M; m += kTileRows)
    strip_of(a + m * row, row, 1, least(kTileRows, M - m), K, 1, packed + m * K);
}

// The same for the transpose of K rows of a: each is read once, from its beginning to its end.
[[maybe_unused]] inline void transposed_strips_of(const float* a, int64_t row, int64_t M, int64_t K, float* packed) {
  constexpr int kVecs = (kTileRows + kLanes - 1) / kLanes;
  for (int64_t k = 0; k < K; ++k, a += row) {
    for (int64_t m = 0; m < M; m += kLanes) __builtin_prefetch(a + kRowsAhead * row + m);
    for (int64_t m = 0; m < M; m += kTileRows) {
      const int64_t rows = least(kTileRows, M - m);
      float* y = packed + m * K + k * rows;
      if ((K - k) * rows >= kVecs * kLanes) {
        // Runs over into the next k, which comes later and overwrites it; but not into the next strip.
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) store(y + v * kLanes, load(a + m + v * kLanes));
      } else {
        for (int64_t i = 0; i < rows; ++i) y[i] = a[m + i];
      }
    }
  }
}

// A panel (K, kTileWidth) of B(k, j) = b[k * row + j * column], filled up with zeros.
template <class Stored>
inline void panel_of(const Stored* b, int64_t row, int64_t column, int64_t columns, int64_t K, float* packed) {
  if (column == 1) {
    for (int64_t k = 0; k < K; ++k, b += row, packed += kTileWidth) {
      int64_t j = 0;
      for (; j + kLanes <= columns; j += kLanes) store(packed + j, numbers(b + j));
      for (; j < columns; ++j) packed[j] = number(b + j);
      for (; j < kTileWidth; ++j) packed[j] = 0;
    }
    return;
  }
  const int64_t whole = K / kLanes * kLanes;
  for (int64_t k = 0; k < whole; k += kLanes)
    for (int64_t first = 0; first < kTileWidth; first += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        const Stored* b_j = b + (first + j) * column + k;
        if (first + j < columns) __builtin_prefetch(b_j + kAhead);
        block[j] = first + j < columns ? numbers(b_j) : Vec{};
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(packed + (k + i) * kTileWidth + first, block[i]);
    }
  for (int64_t k = whole; k < K; ++k)
    for (int64_t j = 0; j < kTileWidth; ++j) packed[k * kTileWidth + j] = j < columns ? number(b + j * column + k) : 0;
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

// A panel C (M x kTileWidth) (+)= A(:, k) B(k, :) for the k in a range, of strips of A (M x K) and a panel of B.
[[maybe_unused]] inline void strips_by_panel(int64_t M, int64_t K, Band k, const float* a, const float* b, float* c,
                                             bool accumulate) {
  for (int64_t m = 0; m < M; m += kTileRows) {
    const int64_t rows = least(kTileRows, M - m);
    packed_tile_of(rows, k.end - k.begin, a + m * K + k.begin * rows, b + k.begin * kTileWidth, c + m * kTileWidth,
                   kTileWidth, accumulate);
  }
}

}  // namespace
