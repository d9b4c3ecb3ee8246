#include "simd/isa.h"

ATTNEDIT_LOOPS(void add_range(const float* a, const float* b, float* y, bool past_caches, int64_t begin, int64_t end);
               void fill_range(float value, float* y, bool past_caches, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

template <bool kStream>
void add(const float* a, const float* b, float* y, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) put<kStream>(y + i, load(a + i) + load(b + i));
  for (; i < end; ++i) y[i] = a[i] + b[i];
  if (kStream) end_stream();
}

template <bool kStream>
void fill(float value, float* y, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) put<kStream>(y + i, splat(value));
  for (; i < end; ++i) y[i] = value;
  if (kStream) end_stream();
}

}  // namespace

void add_range(const float* a, const float* b, float* y, bool past_caches, int64_t begin, int64_t end) {
  (past_caches ? add<true> : add<false>)(a, b, y, begin, end);
}

void fill_range(float value, float* y, bool past_caches, int64_t begin, int64_t end) {
  (past_caches ? fill<true> : fill<false>)(value, y, begin, end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/add.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
Task add(View<const float, 1> a, View<const float, 1> b, View<float, 1> y) {
  ATTNEDIT_CHECK(b.shape == a.shape, "add", "b must have shape ", to_string(a.shape), ", got ", to_string(b.shape));
  ATTNEDIT_CHECK(y.shape == a.shape, "add", "y must have shape ", to_string(a.shape), ", got ", to_string(y.shape));
  return [=] {
    // In place the line is fetched anyway.
    const bool past_caches = y.data != a.data && y.data != b.data && simd::stores_past_caches(3 * a.size(), {y.data});
    parallel_numbers(a.size(), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(add_range)(a.data, b.data, y.data, past_caches, begin, end);
    });
  };
}

Task fill(float value, View<float, 1> y) {
  return [=] {
    const bool past_caches = simd::stores_past_caches(y.size(), {y.data});
    parallel_numbers(y.size(), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(fill_range)(value, y.data, past_caches, begin, end);
    });
  };
}

}  // namespace attnedit::kernels
#endif
