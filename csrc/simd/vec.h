#pragma once

// The vector of the instruction set that is being compiled, in the compiler's own vector extensions, and the few
// functions that loops share. Everything has internal linkage: each translation unit keeps its own copy (see isa.h).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

[[maybe_unused]] inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
[[maybe_unused]] inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
// A store past the caches, to a multiple of the vector's size: simd/stores.h says when. A plain store first fetches the
// line that it overwrites, a third of a copy's traffic.
[[maybe_unused]] inline void stream(float* p, Vec v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
  _mm_stream_ps(p, (__m128)v);
#else
  store(p, v);
#endif
}
// Behind the last stream() of a worker's range: such stores are ordered with no others, whoever reads them must not be
// told too early.
[[maybe_unused]] inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
template <bool kStream>
inline void put(float* p, Vec v) {
  kStream ? stream(p, v) : store(p, v);
}
[[maybe_unused]] inline Vec splat(float x) { return x - Vec{}; }
[[maybe_unused]] inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// The first n < kLanes numbers; the rest is fill on loading and is left alone on storing.
[[maybe_unused]] inline Vec load_part(const float* p, int64_t n, float fill = 0) {
  Vec v = splat(fill);
  std::memcpy(&v, p, n * sizeof(float));
  return v;
}
[[maybe_unused]] inline void store_part(float* p, Vec v, int64_t n) { std::memcpy(p, &v, n * sizeof(float)); }

// Folds the upper half of the lanes onto the lower half until one is left: a fixed order, so that a sum has the same
// bits wherever it is taken. By shuffles, because GCC sends single lanes, and their whole loop, through memory.
template <class V, class F>
inline float fold(V v, const F& f) {
  if constexpr (sizeof(V) == 64)
    return fold(f(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                  __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
                f);
  else if constexpr (sizeof(V) == 32)
    return fold(f(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)), f);
  else if constexpr (sizeof(V) == 16)
    return fold(f(__builtin_shufflevector(v, v, 0, 1), __builtin_shufflevector(v, v, 2, 3)), f);
  else
    return f(v[0], v[1]);
}
[[maybe_unused]] inline float sum(Vec v) {
  return fold(v, [](auto a, auto b) { return a + b; });
}
[[maybe_unused]] inline float max_lane(Vec v) {
  return fold(v, [](auto a, auto b) { return a > b ? a : b; });
}
[[maybe_unused]] inline IntVec lane_numbers() {
  constexpr int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  IntVec v;
  std::memcpy(&v, numbers, sizeof v);
  return v;
}

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// 2^x to 1.2e-7 relative, x <= 127; exactly 0 below -126.5, so that masked scores never make subnormals.
[[maybe_unused]] inline Vec exp2(Vec x) {
  const Vec bounded = max(splat(-127.f), x);  // in this order a NaN stays a NaN
  const Vec magic = splat(12582912.f);        // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
  const Vec shifted = bounded + magic;
  const Vec f = bounded - (shifted - magic);
  Vec p = splat(0.00132765f);
  p = p * f + 0.00967554f;
  p = p * f + 0.05550713f;
  p = p * f + 0.2402212f;
  p = p * f + 0.69314697f;
  p = p * f + 1.0000001f;
  return p * (Vec)(((IntVec)shifted + 127) << 23);  // a cast between vectors keeps the bits; 2^-127 is 0
}
[[maybe_unused]] inline Vec exp(Vec x) { return exp2(x * kLog2E); }

// One vector of stored bfloat16 numbers, widened.
[[maybe_unused]] inline Vec load_bfloat16(const uint16_t* x) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const Halves*>(x), IntVec) << 16);
}

// Two vectors as one of pairs of bfloat16, the first in the lower halves; rounded to the nearest, ties to even.
[[maybe_unused]] inline Vec pairs(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  typedef int16_t Halves __attribute__((vector_size(64)));
  const Halves both = (Halves)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  return (Vec)__builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25,
                                      10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
  const auto rounded = [](Vec x) {
    const IntVec bits = (IntVec)x, up = bits + 0x7fff + ((bits >> 16) & 1);
    return x == x ? up : bits | 0x400000;  // a NaN must not be rounded up to anything else
  };
  return (Vec)(((rounded(low) >> 16) & 0xffff) | (rounded(high) & ~0xffff));
#endif
}
// The pairs' first numbers, and their second ones.
[[maybe_unused]] inline Vec low_of(Vec pairs) { return (Vec)((IntVec)pairs << 16); }
[[maybe_unused]] inline Vec high_of(Vec pairs) { return (Vec)((IntVec)pairs & ~0xffff); }

// Numbers of two rows of stored bfloat16 as pairs: 2 kLanes of each make that many words.
template <size_t... Lane>
inline void zip_bfloat16(const uint16_t* low, const uint16_t* high, float* words, std::index_sequence<Lane...>) {
  typedef uint16_t Row __attribute__((vector_size(kLanes * 4)));
  typedef uint16_t StoredRow __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
  const Row a = *reinterpret_cast<const StoredRow*>(low), b = *reinterpret_cast<const StoredRow*>(high);
  constexpr size_t n = sizeof...(Lane);
  store(words, (Vec)__builtin_shufflevector(a, b, (Lane / 2 + Lane % 2 * n)...));
  store(words + kLanes, (Vec)__builtin_shufflevector(a, b, (n / 2 + Lane / 2 + Lane % 2 * n)...));
}

// n numbers as stored bfloat16, rounded to the nearest, ties to even.
[[maybe_unused]] inline void narrow_bfloat16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    // The carry would make some NaNs infinite.
    y[i] = static_cast<uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) >> 16);
  }
}

// Widens n stored bfloat16 or float16 numbers.
[[maybe_unused]] inline void widen_bfloat16(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    std::memcpy(y + i, &bits, 4);
  }
}
// float16's own subnormals go through an integer: as shifted bits they would be flushed to zero.
[[maybe_unused]] inline void widen_float16(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = x[i] & 0x7fff;
    uint32_t bits = (magnitude << 13) + (112u << 23) + (magnitude >= 0x7c00 ? 112u << 23 : 0);
    const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
    uint32_t subnormal_bits;
    std::memcpy(&subnormal_bits, &subnormal, 4);
    bits = (magnitude < 0x0400 ? subnormal_bits : bits) | static_cast<uint32_t>(x[i] & 0x8000) << 16;
    std::memcpy(y + i, &bits, 4);
  }
}

}  // namespace
