#include "simd/isa.h"

// Elements [begin, end).
ATTNEDIT_LOOPS(void swiglu_range(const float* gate, const float* up, float* y, bool past_caches, int64_t begin,
                                 int64_t end);
               void swiglu_range_backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                                          bool past_caches, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// The exponent is never positive, so that it cannot overflow.
inline Vec sigmoid(Vec a) {
  const Vec e = exp(a < 0.f ? a : -a);
  return (a < 0.f ? e : splat(1.f)) / (e + 1.f);
}

inline Vec swiglu(Vec gate, Vec up) { return gate * sigmoid(gate) * up; }

struct Gradients {
  Vec gate, up;
};

// silu'(a) = s (1 + a (1 - s)),   s = sigmoid(a)
inline Gradients swiglu_backward(Vec dy, Vec gate, Vec up) {
  const Vec s = sigmoid(gate);
  return {dy * up * s * (gate * (1.f - s) + 1.f), dy * gate * s};
}

template <bool kStream>
void forward(const float* gate, const float* up, float* y, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) put<kStream>(y + i, swiglu(load(gate + i), load(up + i)));
  if (i < end) store_part(y + i, swiglu(load_part(gate + i, end - i), load_part(up + i, end - i)), end - i);
  if (kStream) end_stream();
}

template <bool kStream>
void backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup, int64_t begin,
              int64_t end) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    const Gradients d = swiglu_backward(load(dy + i), load(gate + i), load(up + i));
    put<kStream>(dgate + i, d.gate);
    put<kStream>(dup + i, d.up);
  }
  if (i < end) {
    const int64_t rest = end - i;
    const Gradients d = swiglu_backward(load_part(dy + i, rest), load_part(gate + i, rest), load_part(up + i, rest));
    store_part(dgate + i, d.gate, rest);
    store_part(dup + i, d.up, rest);
  }
  if (kStream) end_stream();
}

}  // namespace

void swiglu_range(const float* gate, const float* up, float* y, bool past_caches, int64_t begin, int64_t end) {
  (past_caches ? forward<true> : forward<false>)(gate, up, y, begin, end);
}

void swiglu_range_backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                           bool past_caches, int64_t begin, int64_t end) {
  (past_caches ? backward<true> : backward<false>)(dy, gate, up, dgate, dup, begin, end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/swiglu.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
Task swiglu_forward(View<const float, 2> gate, View<const float, 2> up, View<float, 2> y) {
  ATTNEDIT_CHECK(up.shape == gate.shape, "swiglu", "up must have shape ", to_string(gate.shape), ", got ",
                 to_string(up.shape));
  ATTNEDIT_CHECK(y.shape == gate.shape, "swiglu", "y must have shape ", to_string(gate.shape), ", got ",
                 to_string(y.shape));
  return [=] {
    const bool past_caches = simd::stores_past_caches(3 * gate.size(), {y.data});
    parallel_numbers(gate.size(), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(swiglu_range)(gate.data, up.data, y.data, past_caches, begin, end);
    });
  };
}

Task swiglu_backward(View<const float, 2> dy, View<const float, 2> gate, View<const float, 2> up, View<float, 2> dgate,
                     View<float, 2> dup) {
  ATTNEDIT_CHECK(dy.shape == gate.shape, "swiglu_backward", "dy must have shape ", to_string(gate.shape), ", got ",
                 to_string(dy.shape));
  ATTNEDIT_CHECK(up.shape == gate.shape, "swiglu_backward", "up must have shape ", to_string(gate.shape), ", got ",
                 to_string(up.shape));
  ATTNEDIT_CHECK(dgate.shape == gate.shape, "swiglu_backward", "dgate must have shape ", to_string(gate.shape),
                 ", got ", to_string(dgate.shape));
  ATTNEDIT_CHECK(dup.shape == gate.shape, "swiglu_backward", "dup must have shape ", to_string(gate.shape), ", got ",
                 to_string(dup.shape));
  return [=] {
    const bool past_caches = simd::stores_past_caches(5 * gate.size(), {dgate.data, dup.data});
    parallel_numbers(gate.size(), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(swiglu_range_backward)
      (dy.data, gate.data, up.data, dgate.data, dup.data, past_caches, begin, end);
    });
  };
}

}  // namespace attnedit::kernels
#endif
