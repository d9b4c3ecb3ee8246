#pragma once

// Products of small matrices that stay in the cache, in register tiles of kTileRows x 2 vectors:
//   C (M x N) (+)= A (M x K) B (K x N)
// Every element of C is one chain of multiply-adds in ascending k, whatever the tile that it falls in.

#include "simd/vec.h"

namespace {

// 24 (12 with sixteen registers) of the registers hold C, two hold a row of B and one an element of A.
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

// With Ahead, every k asks for the next cache line of memory that somebody will read soon: next, next + 64, ... bytes.
template <int Rows, int Vecs, bool Ahead = false>
__attribute__((noinline)) void tile(int64_t K, const float* __restrict a, int64_t a_row, int64_t a_column,
                                    const float* __restrict b, int64_t b_row, float* __restrict c, int64_t c_row,
                                    bool accumulate, const char* next = nullptr) {
  Vec sums[Rows][Vecs];
#pragma GCC unroll 24
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) sums[m][n] = accumulate ? load(c + m * c_row + n * kLanes) : Vec{};
  for (int64_t k = 0; k < K; ++k) {
    if constexpr (Ahead) __builtin_prefetch(next + 64 * k, 0, 2);
    Vec b_k[Vecs];
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) b_k[n] = load(b + n * kLanes);
#pragma GCC unroll 24
    for (int m = 0; m < Rows; ++m) {
      const float a_mk = a[m * a_row];
#pragma GCC unroll 8
      for (int n = 0; n < Vecs; ++n) sums[m][n] += a_mk * b_k[n];
    }
    a += a_column;
    b += b_row;
  }
#pragma GCC unroll 24
  for (int m = 0; m < Rows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < Vecs; ++n) store(c + m * c_row + n * kLanes, sums[m][n]);
}

// The tile with exactly this many rows: the last rows of a matrix.
template <int Vecs, int Rows = kTileRows, bool Ahead = false>
inline void tile_of(int64_t rows, int64_t K, const float* a, int64_t a_row, int64_t a_column, const float* b,
                    int64_t b_row, float* c, int64_t c_row, bool accumulate, const char* next = nullptr) {
  if constexpr (Rows > 1)
    if (rows < Rows)
      return tile_of<Vecs, Rows - 1, Ahead>(rows, K, a, a_row, a_column, b, b_row, c, c_row, accumulate, next);
  tile<Rows, Vecs, Ahead>(K, a, a_row, a_column, b, b_row, c, c_row, accumulate, next);
}

// The same for a packed strip (K, Rows) and a packed panel (K, kTileWidth): constant strides leave the loop nothing to
// do but multiply. C is asked for at the start and needed at the end; what comes next of A and B is asked for a few
// hundred cycles ahead, since the processor's own prefetching often is not enough (the third-level cache is far).
template <int Rows>
__attribute__((noinline)) void packed_tile(int64_t K, const float* __restrict a, const float* __restrict b,
                                           float* __restrict c, int64_t c_row, bool accumulate) {
  Vec sums[Rows][2] = {};
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    __builtin_prefetch(c + m * c_row, 1);
    __builtin_prefetch(c + m * c_row + kTileWidth - 1, 1);
  }
  for (int64_t k = 0; k < K; ++k, a += Rows, b += kTileWidth) {
    const Vec b_0 = load(b), b_1 = load(b + kLanes);
    __builtin_prefetch(b + 16 * kTileWidth);
    __builtin_prefetch(b + 16 * kTileWidth + kLanes);
    __builtin_prefetch(a + 32 * Rows);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      sums[m][0] += a[m] * b_0;
      sums[m][1] += a[m] * b_1;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    float* c_m = c + m * c_row;
    store(c_m, accumulate ? load(c_m) + sums[m][0] : sums[m][0]);
    store(c_m + kLanes, accumulate ? load(c_m + kLanes) + sums[m][1] : sums[m][1]);
  }
}

template <int Rows = kTileRows>
inline void packed_tile_of(int64_t rows, int64_t K, const float* a, const float* b, float* c, int64_t c_row,
                           bool accumulate) {
  if constexpr (Rows > 1)
    if (rows < Rows) return packed_tile_of<Rows - 1>(rows, K, a, b, c, c_row, accumulate);
  packed_tile<Rows>(K, a, b, c, c_row, accumulate);
}

}  // namespace
