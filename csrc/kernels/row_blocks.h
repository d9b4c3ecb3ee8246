#pragma once

#include "runtime/parallel.h"

// Sums over rows that a kernel makes in passing, as a norm's weight gradient. Rows are cut into blocks by their number
// alone; each block has one owner and partial sums of its own, which are added up in order afterwards: one pass over
// the rows, and the same bits for any number of threads.
namespace attnedit::kernels {

// Enough for many threads to share evenly, few enough for the partial sums to stay small beside the rows.
constexpr int64_t kMostRowBlocks = 64, kLeastBlockRows = 32;

inline int64_t block_rows(int64_t N) { return std::max(kLeastBlockRows, parts_of(N, kMostRowBlocks)); }
inline int64_t row_blocks(int64_t N) { return parts_of(N, block_rows(N)); }

// Calls f(block, begin, end) for every block's rows.
template <class F>
void parallel_row_blocks(int64_t N, const F& f) {
  const int64_t rows = block_rows(N);
  parallel_for(row_blocks(N), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) f(block, block * rows, std::min(N, (block + 1) * rows));
  });
}

}  // namespace attnedit::kernels
