#pragma once

#include <utility>

#include "simd/vec.h"

namespace {

// Swaps bit D of the lane with bit D of the row.
template <int D, size_t... Lane>
inline void exchange(Vec& a, Vec& b, std::index_sequence<Lane...>) {
  const Vec low = __builtin_shufflevector(a, b, (Lane & D ? kLanes + Lane - D : Lane)...);
  b = __builtin_shufflevector(a, b, (Lane & D ? kLanes + Lane : Lane + D)...);
  a = low;
}

template <int D = 1>
inline __attribute__((always_inline)) void transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & D)) exchange<D>(rows[i], rows[i + D], std::make_index_sequence<kLanes>());
  if constexpr (2 * D < kLanes) transpose<2 * D>(rows);
}

}  // namespace
