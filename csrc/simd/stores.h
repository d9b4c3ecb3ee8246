#pragma once

#include <cstdint>
#include <initializer_list>

namespace attnedit::simd {

// The last cache that a process may count on: the usual size for a few cores. What a launch reads and writes goes
// through it in order, so once that is more than its size, a reader that begins at the beginning of the results finds
// none of them there: they may as well be stored past it, which saves fetching the lines that they overwrite.
constexpr int64_t kLastCache = 32 << 20;

// Whether a launch of so many floats, read and written, stores its results past the caches. Each result must begin at a
// cache line, and the widths of its rows be whole lines, for such stores take whole aligned vectors only.
inline bool stores_past_caches(int64_t floats, std::initializer_list<const float*> results,
                               std::initializer_list<int64_t> widths = {}) {
  bool aligned = true;
  for (const float* result : results) aligned &= reinterpret_cast<uintptr_t>(result) % 64 == 0;
  for (int64_t width : widths) aligned &= width % 16 == 0;
  return aligned && floats * static_cast<int64_t>(sizeof(float)) > kLastCache;
}

}  // namespace attnedit::simd
