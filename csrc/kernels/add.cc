#include "simd/isa.h"

ATTNEDIT_LOOPS(void add_range(const float* a, const float* b, float* y, int64_t begin, int64_t end);
               void fill_range(float value, float* y, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA

namespace attnedit::kernels::ATTNEDIT_ISA {

void add_range(const float* a, const float* b, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = a[i] + b[i];
}

void fill_range(float value, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) y[i] = value;
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/add.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {
constexpr int64_t kGrain = 1 << 16;
}

Task add(View<const float, 1> a, View<const float, 1> b, View<float, 1> y) {
  ATTNEDIT_CHECK(b.shape == a.shape, "add", "b must have shape ", to_string(a.shape), ", got ", to_string(b.shape));
  ATTNEDIT_CHECK(y.shape == a.shape, "add", "y must have shape ", to_string(a.shape), ", got ", to_string(y.shape));
  return [=] {
    parallel_for(a.size(), kGrain, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(add_range)(a.data, b.data, y.data, begin, end);
    });
  };
}

Task fill(float value, View<float, 1> y) {
  return [=] {
    parallel_for(y.size(), kGrain, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(fill_range)(value, y.data, begin, end);
    });
  };
}

}  // namespace attnedit::kernels
#endif
