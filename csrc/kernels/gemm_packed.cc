#include "simd/isa.h"

// A strip of A: `rows` rows, word k of all of them side by side (words, rows). A panel of B: kTileWidth columns (words,
// kTileWidth), filled up with zeros. A word is a float32, or a pair of bfloat16. storage: 0 float32, 1 bfloat16, 2
// float16.
ATTNEDIT_LOOPS(void packed_shape(bool pairs, int64_t* rows, int64_t* columns);
               void pack_strip(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha,
                               bool pairs, float* packed);
               void pack_panel(const void* b, int storage, int64_t row, int64_t column, int64_t columns, int64_t K,
                               bool pairs, float* packed);
               void thin_block(const float* left, int64_t height, int64_t m, const void* b, int storage, int64_t row,
                               int64_t column, int64_t n, int64_t K, const void* next, bool pairs, bool accumulate,
                               float* c, int64_t ldc, float* packed);
               void packed_block(const float* left, int64_t height, int64_t m, const float* right, int64_t n,
                                 int64_t words, bool pairs, bool accumulate, float* c, int64_t ldc);)

#ifdef ATTNEDIT_ISA
#include "simd/pack.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

constexpr int64_t kDepth = 512;  // words of a panel: with a strip it leaves room in the second-level cache

// The last panel's columns that exist, through a buffer.
template <class Word>
void edge_tile(int64_t rows, int64_t columns, int64_t strip_words, Band words, const float* a, const float* b,
               bool accumulate, float* c, int64_t ldc) {
  float whole[kStripRows<Word> * kTileWidth];
  strip_by_panel<Word>(rows, strip_words, words, a, b, whole, kTileWidth, false);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      c[i * ldc + j] = whole[i * kTileWidth + j] + (accumulate ? c[i * ldc + j] : 0);
}

// Strips of `height` rows, the last one may have fewer. A panel's part stays in the first-level cache while the strips
// pass by.
template <class Word>
void block_of(const float* left, int64_t height, int64_t m, const float* right, int64_t n, int64_t words,
              bool accumulate, float* c, int64_t ldc) {
  const MatrixTiles<Word> tiles;
  for (int64_t k = 0; k < words; k += kDepth) {
    const Band band = {k, least(k + kDepth, words)};
    const bool add = accumulate || k > 0;
    for (int64_t j = 0; j < n; j += kTileWidth) {
      const float* b = right + j * words + k * kTileWidth;
      for (int64_t i = 0; i < m; i += height) {
        const int64_t rows = least(height, m - i);
        const float* a = left + i * words;
        float* c_ij = c + i * ldc + j;
        if (n - j >= kTileWidth)
          strip_by_panel<Word>(rows, words, band, a, b, c_ij, ldc, add);
        else
          edge_tile<Word>(rows, n - j, words, band, a, b, add, c_ij, ldc);
      }
    }
  }
}

template <class Word>
void panel(const void* b, int storage, int64_t row, int64_t column, int64_t columns, int64_t K, float* packed) {
  with_stored(b, storage, [&](const auto* stored) { panel_of<Word>(stored, row, column, columns, K, 1, packed); });
}

// The half of a panel as it lies that a strip asks for: sixteen of its columns where those are contiguous, else the
// first or the second line of every row.
Asked half_panel(const void* b, int storage, int64_t row, int64_t column, int64_t half) {
  const char* at = static_cast<const char*>(b);
  const int64_t size = storage ? 2 : 4;
  if (column == 1) return {at + half * 64, row * size, 62};
  return {at + half * 16 * column * size, column * size, 4};
}

// Few strips by B as it lies: a panel is packed, multiplied and forgotten, while the next one is asked for. Where B
// comes from memory, packing all of it first would take as long as the product.
template <class Word>
void thin_of(const float* left, int64_t height, int64_t m, const void* b, int storage, int64_t row, int64_t column,
             int64_t n, int64_t K, const void* next, bool accumulate, float* c, int64_t ldc, float* packed) {
  const MatrixTiles<Word> tiles;
  const int64_t words = words_of<Word>(K);
  const auto columns_from = [&](int64_t j) { return static_cast<const char*>(b) + j * column * (storage ? 2 : 4); };
  for (int64_t j = 0; j < n; j += kTileWidth) {
    panel<Word>(columns_from(j), storage, row, column, least(kTileWidth, n - j), K, packed);
    const void* soon = j + kTileWidth < n ? columns_from(j + kTileWidth) : next;
    for (int64_t i = 0; i < m; i += height) {
      const int64_t rows = least(height, m - i), strip = i / height;
      const float* a = left + i * words;
      float* c_ij = c + i * ldc + j;
      if (n - j < kTileWidth)
        edge_tile<Word>(rows, n - j, words, {0, words}, a, packed, accumulate, c_ij, ldc);
      else if (strip < 2 && soon && kStripRows<Word> == kTileRows)
        packed_tile_of<Word, kTileRows, true>(rows, words, a, packed, c_ij, ldc, accumulate,
                                              half_panel(soon, storage, row, column, strip));
      else
        strip_by_panel<Word>(rows, words, {0, words}, a, packed, c_ij, ldc, accumulate);
    }
  }
}

}  // namespace

void packed_shape(bool pairs, int64_t* rows, int64_t* columns) {
  *rows = pairs ? kStripRows<BFloat16Pair> : kStripRows<Float32>;
  *columns = kTileWidth;
}

void pack_strip(const float* a, int64_t row, int64_t column, int64_t rows, int64_t K, float alpha, bool pairs,
                float* packed) {
  (pairs ? strip_of<BFloat16Pair> : strip_of<Float32>)(a, row, column, rows, K, alpha, packed);
}

void pack_panel(const void* b, int storage, int64_t row, int64_t column, int64_t columns, int64_t K, bool pairs,
                float* packed) {
  (pairs ? panel<BFloat16Pair> : panel<Float32>)(b, storage, row, column, columns, K, packed);
}

void thin_block(const float* left, int64_t height, int64_t m, const void* b, int storage, int64_t row, int64_t column,
                int64_t n, int64_t K, const void* next, bool pairs, bool accumulate, float* c, int64_t ldc,
                float* packed) {
  (pairs ? thin_of<BFloat16Pair> : thin_of<Float32>)(left, height, m, b, storage, row, column, n, K, next, accumulate,
                                                     c, ldc, packed);
}

void packed_block(const float* left, int64_t height, int64_t m, const float* right, int64_t n, int64_t words,
                  bool pairs, bool accumulate, float* c, int64_t ldc) {
  (pairs ? block_of<BFloat16Pair> : block_of<Float32>)(left, height, m, right, n, words, accumulate, c, ldc);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/gemm.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kSerialWork = 2 << 20;             // multiply-adds below which a second thread does not pay
constexpr int64_t kChunk = 1024, kChunkDepth = 512;  // rows or columns, and depth, packed at a time: 2 MiB an operand
constexpr int64_t kItemStrips = 8, kItemPanels = 8;
constexpr int64_t kThinRows = 96;  // up to here a right operand is packed a panel at a time

bool in_pairs(Compute compute) { return compute == Compute::kBFloat16; }
int64_t words_of(int64_t k, Compute compute) { return in_pairs(compute) ? (k + 1) / 2 : k; }

struct Tile {
  int64_t rows, columns;
  explicit Tile(Compute compute) { ATTNEDIT_BEST(packed_shape)(in_pairs(compute), &rows, &columns); }
  // Strips of one height, so that the last is not nearly empty.
  int64_t height(int64_t m) const { return parts_of(m, parts_of(m, rows)); }
};

template <class F>
void each_item(int64_t items, bool alone, const F& f) {
  if (!alone) return parallel_items(items, [&](int64_t i, int64_t) { f(i); });
  const FlushSubnormals flush;
  for (int64_t i = 0; i < items; ++i) f(i);
}

}  // namespace

RightOperand transposed_rows(WeightView<2> weight, int64_t begin) {
  return {weight.row(begin), weight.dtype, 1, weight.dim(1)};
}
RightOperand plain_rows(WeightView<2> weight, int64_t begin) {
  return {weight.row(begin), weight.dtype, weight.dim(1), 1};
}

int64_t packed_left_size(int64_t m, int64_t k) { return m * k; }

// For the widest panel of any instruction set.
int64_t packed_right_size(int64_t n, int64_t k) { return (n + 31) / 32 * 32 * k; }

void pack_left(int64_t m, int64_t k, float alpha, LeftOperand a, Compute compute, float* packed) {
  if (m <= 0) return;
  const int64_t height = Tile(compute).height(m), words = words_of(k, compute);
  each_item(parts_of(m, height), m * k < (1 << 15), [&](int64_t strip) {
    const int64_t i = strip * height;
    ATTNEDIT_BEST(pack_strip)
    (a.data + i * a.row, a.row, a.column, std::min(height, m - i), k, alpha, in_pairs(compute), packed + i * words);
  });
}

void pack_right(int64_t n, int64_t k, RightOperand b, Compute compute, float* packed) {
  const int64_t columns = Tile(compute).columns, words = words_of(k, compute);
  each_item(parts_of(n, columns), n * k < (1 << 15), [&](int64_t panel) {
    const int64_t j = panel * columns;
    const char* from = static_cast<const char*>(b.data) + j * b.column * size_of(b.dtype);
    ATTNEDIT_BEST(pack_panel)
    (from, static_cast<int>(b.dtype), b.row, b.column, std::min(columns, n - j), k, in_pairs(compute),
     packed + j * words);
  });
}

void packed_product(int64_t m, int64_t n, int64_t k, const float* left, const float* right, Compute compute,
                    bool accumulate, float* c, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) {  // a sum of nothing
    for (int64_t i = 0; i < m && !accumulate; ++i) std::fill_n(c + i * ldc, n, 0.f);
    return;
  }
  const Tile tile(compute);
  const int64_t height = tile.height(m), rows = kItemStrips * height, columns = kItemPanels * tile.columns;
  const int64_t across = parts_of(n, columns), words = words_of(k, compute);
  each_item(parts_of(m, rows) * across, m * n * k <= kSerialWork, [&](int64_t item) {
    const int64_t i = item / across * rows, j = item % across * columns;
    ATTNEDIT_BEST(packed_block)
    (left + i * words, height, std::min(rows, m - i), right + j * words, std::min(columns, n - j), words,
     in_pairs(compute), accumulate, c + i * ldc + j, ldc);
  });
}

namespace {

// packed_product of a right operand as it lies, for few rows; goes_on: there are rows k and on of it.
void thin_product(int64_t m, int64_t n, int64_t k, const float* left, RightOperand b, bool goes_on, Compute compute,
                  bool accumulate, float* c, int64_t ldc, float* panels) {
  const Tile tile(compute);
  const int64_t columns = kItemPanels * tile.columns, words = words_of(k, compute);
  each_item(parts_of(n, columns), m * n * k <= kSerialWork, [&](int64_t item) {
    const int64_t j = item * columns;
    const char* from = static_cast<const char*>(b.data) + j * b.column * size_of(b.dtype);
    ATTNEDIT_BEST(thin_block)
    (left, tile.height(m), m, from, static_cast<int>(b.dtype), b.row, b.column, std::min(columns, n - j), k,
     goes_on ? from + k * b.row * size_of(b.dtype) : nullptr, in_pairs(compute), accumulate, c + j, ldc,
     panels + j * words);
  });
}

}  // namespace

int64_t gemm_scratch(int64_t m, int64_t n, int64_t k) {
  const int64_t depth = std::min(k, kChunkDepth);
  return packed_left_size(std::min(m, kChunk), depth) + packed_right_size(std::min(n, kChunk), depth);
}

void gemm(int64_t m, int64_t n, int64_t k, float alpha, LeftOperand a, RightOperand b, Compute compute, bool accumulate,
          float* c, int64_t ldc, float* scratch) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return packed_product(m, n, k, nullptr, nullptr, compute, accumulate, c, ldc);
  float* const left = scratch;
  float* const right = scratch + packed_left_size(std::min(m, kChunk), std::min(k, kChunkDepth));
  const auto number = [&](int64_t at) { return static_cast<const char*>(b.data) + at * size_of(b.dtype); };
  for (int64_t l = 0; l < k; l += kChunkDepth) {
    const int64_t depth = std::min(kChunkDepth, k - l);
    for (int64_t i = 0; i < m; i += kChunk) {
      const int64_t rows = std::min(kChunk, m - i);
      pack_left(rows, depth, alpha, {a.data + i * a.row + l * a.column, a.row, a.column}, compute, left);
      for (int64_t j = 0; j < n; j += kChunk) {
        const int64_t columns = std::min(kChunk, n - j);
        const RightOperand part = {number(l * b.row + j * b.column), b.dtype, b.row, b.column};
        if (m <= kThinRows) {
          thin_product(m, columns, depth, left, part, l + depth < k, compute, accumulate || l > 0, c + j, ldc, right);
          continue;
        }
        pack_right(columns, depth, part, compute, right);
        packed_product(rows, columns, depth, left, right, compute, accumulate || l > 0, c + i * ldc + j, ldc);
      }
    }
  }
}

}  // namespace attnedit::kernels
#endif
