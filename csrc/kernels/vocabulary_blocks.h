#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/gemm.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {

// How the losses walk over logits (N,V): a tile of tokens at a time, and for each tile the vocabulary in blocks, so
// that a block of logits stays in the last cache. Depends on shapes only.
struct VocabularyBlocks {
  static constexpr int64_t kTokens = 512, kWidth = 768;
  int64_t tokens, width, count;

  VocabularyBlocks(int64_t N, int64_t V) : tokens(std::clamp<int64_t>(N, 1, kTokens)) {
    count = std::max<int64_t>(parts_of(V, kWidth), 1);
    width = std::min(parts_of(V, count) + 31, kWidth) / 32 * 32;
    count = std::max<int64_t>(parts_of(V, std::max<int64_t>(width, 1)), 1);
  }
  int64_t logits() const { return tokens * width; }
  // A block of a head (V,D), packed for the logits or for the sums over its rows.
  int64_t packed_head(int64_t D) const { return std::max(packed_right_size(width, D), packed_right_size(D, width)); }
  // Rows that are worth a second thread.
  int64_t grain() const { return (1 << 14) / width + 1; }
};

}  // namespace attnedit::kernels
