#pragma once

// Numbers as they are stored, read as vectors of float32.

#include "simd/vec.h"

namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

[[maybe_unused]] inline Vec numbers(const float* x) { return load(x); }
[[maybe_unused]] inline Vec numbers(const BFloat16* x) { return load_bfloat16(&x->bits); }
[[maybe_unused]] inline Vec numbers(const Float16* x) {
  float y[kLanes];
  widen_float16(&x->bits, y, kLanes);
  return load(y);
}

// The first n < kLanes numbers; the rest is 0.
template <class Stored>
inline Vec some_numbers(const Stored* x, int64_t n) {
  Stored padded[kLanes] = {};
  std::memcpy(padded, x, n * sizeof(Stored));
  return numbers(padded);
}

[[maybe_unused]] inline float number(const float* x) { return *x; }
[[maybe_unused]] inline float number(const BFloat16* x) {
  float y;
  widen_bfloat16(&x->bits, &y, 1);
  return y;
}
[[maybe_unused]] inline float number(const Float16* x) {
  float y;
  widen_float16(&x->bits, &y, 1);
  return y;
}

// f(x) with x of the type that the numbers have; storage is a DType (tensor/dtype.h).
template <class F>
inline void with_stored(const void* x, int storage, const F& f) {
  if (storage == 0) return f(static_cast<const float*>(x));
  if (storage == 1) return f(static_cast<const BFloat16*>(x));
  f(static_cast<const Float16*>(x));
}

}  // namespace
