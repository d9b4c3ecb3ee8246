#pragma once

// Packed pairs of bfloat16 in the processor's matrix tiles (Intel AMX): eight registers of 16 rows of 64 bytes. Two by
// two of them hold 32 x 32 numbers of C; 16 words of A are read from two more, and of B from the last two. A panel is
// what it is for every instruction set; a strip of 32 rows lies in blocks of 16 words, (block, row, word), the last of
// which may be narrower.
//
// tdpbf16ps sums the even and the odd numbers of 16 words apart and adds both to C, in float32 without subnormals.

#include "simd/pack.h"

namespace {

constexpr int64_t kTileWords = 16;
constexpr int64_t kHalf = 16;  // rows of a tile

// The tiles go by number: C is 0 1 above 2 3, A is 4 above 5, B is 6 beside 7. rows of C, words of a block. Every tile
// is zero afterwards.
inline void shape_tiles(int64_t rows, int64_t words) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } shapes;
  const auto shape = [&](int tile, int64_t rows, int64_t bytes) {
    shapes.rows[tile] = static_cast<uint8_t>(rows);
    shapes.row_bytes[tile] = static_cast<uint16_t>(rows ? bytes : 0);
  };
  const int64_t above = least(rows, kHalf), below = rows - above;
  for (int c : {0, 1}) shape(c, above, 64);
  for (int c : {2, 3}) shape(c, below, 64);
  shape(4, above, 4 * words);
  shape(5, below, 4 * words);
  for (int b : {6, 7}) shape(b, words, 64);
  asm volatile("" ::"r"(&shapes) : "memory");  // the compiler believes that ldtilecfg reads eight bytes
  _tile_loadconfig(&shapes);
}

// Tiles belong to the thread; released, they cost the system nothing when it switches to another.
template <>
struct MatrixTiles<BFloat16Pair> {
  MatrixTiles() { shape_tiles(2 * kHalf, kTileWords); }
  ~MatrixTiles() { _tile_release(); }
};

// C (+)= A B over blocks of a strip, whose rows are a_row words apart; with Low there are more than 16 rows.
template <bool Low>
inline void multiply_blocks(int64_t blocks, const float* a, int64_t a_row, int64_t a_block, const float* b, float* c,
                            int64_t c_row, bool accumulate) {
  const int64_t row = 4 * a_row, panel_row = 4 * kTileWidth, from_c = 4 * c_row;
  float* const c_low = c + kHalf * c_row;
  asm volatile("" ::: "memory");  // the compiler does not know that tileloadd reads memory
  if (accumulate) {
    _tile_loadd(0, c, from_c);
    _tile_loadd(1, c + kHalf, from_c);
    if constexpr (Low) {
      _tile_loadd(2, c_low, from_c);
      _tile_loadd(3, c_low + kHalf, from_c);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (Low) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (int64_t block = 0; block < blocks; ++block, a += a_block, b += kTileWords * kTileWidth) {
    _tile_loadd(6, b, panel_row);
    _tile_loadd(4, a, row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kHalf, panel_row);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (Low) {
      _tile_loadd(5, a + kHalf * a_row, row);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, from_c);
  _tile_stored(1, c + kHalf, from_c);
  if constexpr (Low) {
    _tile_stored(2, c_low, from_c);
    _tile_stored(3, c_low + kHalf, from_c);
  }
}

template <>
inline void strip_by_panel<BFloat16Pair>(int64_t rows, int64_t strip_words, Band words, const float* strip,
                                         const float* panel, float* c, int64_t c_row, bool accumulate) {
  const auto multiply = rows > kHalf ? &multiply_blocks<true> : &multiply_blocks<false>;
  const int64_t blocks = (words.end - words.begin) / kTileWords, rest = (words.end - words.begin) % kTileWords;
  const bool usual = rows == 2 * kHalf;
  if (blocks > 0 || rest == 0) {
    if (!usual) shape_tiles(rows, kTileWords);
    multiply(blocks, strip + words.begin * rows, kTileWords, rows * kTileWords, panel, c, c_row, accumulate);
  }
  if (rest > 0) {
    const int64_t at = words.begin + blocks * kTileWords;
    shape_tiles(rows, rest);
    multiply(1, strip + at * rows, least(kTileWords, strip_words - at), 0, panel + blocks * kTileWords * kTileWidth, c,
             c_row, accumulate || blocks > 0);
  }
  if (!usual || rest > 0) shape_tiles(2 * kHalf, kTileWords);
}

// Words [w, w + kTileWords) of a strip, which lie side by side for each of its rows.
inline void strip_block(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha, int64_t w,
                        float* packed) {
  const int64_t count = least(kTileWords, words_of<BFloat16Pair>(K) - w);
  const bool whole = (w + kTileWords) * 2 <= K;
  float* const block = packed + w * rows;
  a += 2 * w * column;
  if (whole && column == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      __builtin_prefetch(a + i * row + 2 * kAhead);
      store(block + i * kTileWords, words_along<BFloat16Pair>(a + i * row, alpha));
    }
  } else if (whole && row == 1) {
    for (int64_t i = 0; i < rows; i += kLanes) {
      const int64_t n = least(kLanes, rows - i);
      const auto numbers_of = [&](int64_t k) {
        const float* a_k = a + k * column + i;
        return (n == kLanes ? load(a_k) : load_part(a_k, n)) * alpha;
      };
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int k = 0; k < kLanes; ++k) square[k] = words_across<BFloat16Pair>(numbers_of(2 * k), numbers_of(2 * k + 1));
      transpose(square);
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) {
        if (j >= n) break;
        store(block + (i + j) * kTileWords, square[j]);
      }
    }
  } else {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < count; ++j) {
        const float* a_ij = a + i * row + 2 * j * column;
        store_word<BFloat16Pair>(block + i * count + j, *a_ij * alpha, 2 * (w + j) + 1 < K ? a_ij[column] * alpha : 0);
      }
  }
}

template <>
inline void strip_of<BFloat16Pair>(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha,
                                   float* packed) {
  for (int64_t w = 0; w < words_of<BFloat16Pair>(K); w += kTileWords)
    strip_block(a, row, column, rows, K, alpha, w, packed);
}

template <>
inline void transposed_strips_of<BFloat16Pair>(const float* a, int64_t row, int64_t M, int64_t K, float* packed) {
  const int64_t words = words_of<BFloat16Pair>(K);
  for (int64_t w = 0; w < words; w += kTileWords)
    for (int64_t m = 0; m < M; m += kStripRows<BFloat16Pair>)
      strip_block(a + m, 1, row, least(kStripRows<BFloat16Pair>, M - m), K, 1, w, packed + m * words);
}

}  // namespace
