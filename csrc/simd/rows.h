#pragma once

// What several kernels do to one row of numbers. Internal linkage, as in vec.h.

#include "simd/vec.h"

namespace {

[[maybe_unused]] inline float dot(const float* a, const float* b, int64_t n) {
  Vec products{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) products += load(a + i) * load(b + i);
  if (i < n) products += load_part(a + i, n - i) * load_part(b + i, n - i);
  return sum(products);
}

// Rotates the pairs (x_2i, x_2i+1), i < half, by the angles of cos and sin; direction -1 rotates back.
[[maybe_unused]] inline void rotate_interleaved(const float* x, const float* cos, const float* sin, float direction,
                                                float* __restrict y, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sin[i] * direction;
    y[2 * i] = a * c - b * s;
    y[2 * i + 1] = b * c + a * s;
  }
}

// The same for the pairs (x_i, x_{i + half}).
[[maybe_unused]] inline void rotate_half_split(const float* x, const float* cos, const float* sin, float direction,
                                               float* __restrict y, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half], c = cos[i], s = sin[i] * direction;
    y[i] = a * c - b * s;
    y[i + half] = b * c + a * s;
  }
}

}  // namespace
