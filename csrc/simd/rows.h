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

// 1 / sqrt(mean(x^2) + eps)
[[maybe_unused]] inline float reciprocal_rms(const float* x, float eps, int64_t n) {
  const float squares = dot(x, x, n);
  if (std::isinf(squares)) [[unlikely]] {  // of numbers beyond 1e19: 0 would make them silently 0
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    return static_cast<float>(1 / std::sqrt(sum / static_cast<double>(n) + eps));
  }
  return 1.f / std::sqrt(squares / static_cast<float>(n) + eps);
}

// Rows that are read twice, first for a sum, leave memory idle the second time, and the processor's own prefetch ends
// at a page, which a row may fill: the second pass fetches the next row, which begins `next` numbers further on.

// y = x * rstd * weight
template <bool kStream>
inline void scale_row(const float* x, int64_t next, const float* weight, float rstd, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    __builtin_prefetch(x + next + i);
    put<kStream>(y + i, load(x + i) * rstd * load(weight + i));
  }
  for (; i < n; ++i) y[i] = x[i] * rstd * weight[i];
}

// dx = rstd * (g - x * rstd^2 * mean(g * x)),   g = dy * weight;   with kWeight, dweight += dy * x * rstd
template <bool kStream, bool kWeight>
inline void norm_row_backward(const float* dy, int64_t next_dy, const float* x, int64_t next_x, const float* weight,
                              float rstd, float* dx, float* dweight, int64_t n) {
  Vec products{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) products += load(dy + i) * load(weight + i) * load(x + i);
  if (i < n) products += load_part(dy + i, n - i) * load_part(weight + i, n - i) * load_part(x + i, n - i);
  const float c = sum(products) / static_cast<float>(n) * rstd * rstd;
  for (i = 0; i + kLanes <= n; i += kLanes) {
    __builtin_prefetch(dy + next_dy + i);
    __builtin_prefetch(x + next_x + i);
    const Vec dy_i = load(dy + i), x_i = load(x + i);
    put<kStream>(dx + i, rstd * (dy_i * load(weight + i) - x_i * c));
    if (kWeight) store(dweight + i, load(dweight + i) + dy_i * x_i * rstd);
  }
  for (; i < n; ++i) {
    dx[i] = rstd * (dy[i] * weight[i] - x[i] * c);
    if (kWeight) dweight[i] += dy[i] * x[i] * rstd;
  }
}

template <bool kStream>
inline void copy_row(const float* x, float* y, int64_t n) {
  if constexpr (kStream)
    for (int64_t i = 0; i < n; i += kLanes) stream(y + i, load(x + i));
  else if (n > 0)  // an empty block may have a null pointer
    std::memcpy(y, x, n * sizeof(float));
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

// A rotated row past the caches goes by way of one that fits here, or is stored plainly.
constexpr int64_t kRotatedAtOnce = 512;
template <bool kStream>
inline void rotate_row(const float* x, const float* cos, const float* sin, float direction, bool interleaved, float* y,
                       int64_t half) {
  const auto rotate = interleaved ? rotate_interleaved : rotate_half_split;
  if (!kStream || 2 * half > kRotatedAtOnce) return rotate(x, cos, sin, direction, y, half);
  alignas(64) float rotated[kRotatedAtOnce];
  rotate(x, cos, sin, direction, rotated, half);
  copy_row<true>(rotated, y, 2 * half);
}

}  // namespace
