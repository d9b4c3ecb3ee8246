#include "simd/isa.h"

ATTNEDIT_LOOPS(void narrow_to_bfloat16(const float* x, uint16_t* y, int64_t n);
               void narrow_to_float16(const float* x, uint16_t* y, int64_t n);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

void narrow_to_bfloat16(const float* x, uint16_t* y, int64_t n) { narrow_bfloat16(x, y, n); }

void narrow_to_float16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const _Float16 half = static_cast<_Float16>(x[i]);
    std::memcpy(y + i, &half, 2);
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cstring>

#include "kernels/cache_store.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
Task cache_store(View<const float, 3> x, View<const int32_t, 1> first, int64_t offset, CacheView<3> cache) {
  const int64_t B = x.dim(0), T = x.dim(1), W = x.dim(2), S = cache.dim(1), C = cache.dim(2);
  ATTNEDIT_CHECK(cache.dim(0) == B && S > 0, "cache_store", "cache must have shape (", B, ", at least 1, at least ", W,
                 "), got ", to_string(cache.shape));
  ATTNEDIT_CHECK(offset >= 0 && offset <= C - W, "cache_store", "offset must be in [0, ", C - W, "] for ", W,
                 " of the ", C, " columns, got ", offset);
  ATTNEDIT_CHECK(first.dim(0) == B, "cache_store", "first must have ", B, " numbers, got ", first.dim(0));

  const int64_t skipped = T > S ? T - S : 0, kept = T - skipped;
  Task task = [=] {
    parallel_rows(B * kept, W, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / kept, t = skipped + i % kept;
        if (first.data[b] < 0) continue;
        const float* from = x.data + (b * T + t) * W;
        const int64_t at = (b * S + (first.data[b] + t) % S) * C + offset;
        if (cache.dtype == DType::kFloat32)
          std::memcpy(static_cast<float*>(cache.data) + at, from, W * sizeof(float));
        else if (cache.dtype == DType::kBFloat16)
          ATTNEDIT_BEST(narrow_to_bfloat16)(from, static_cast<uint16_t*>(cache.data) + at, W);
        else
          ATTNEDIT_BEST(narrow_to_float16)(from, static_cast<uint16_t*>(cache.data) + at, W);
      }
    });
  };
  return std::move(task).moving(1.0 * B * kept * W * (4 + size_of(cache.dtype)));
}

}  // namespace attnedit::kernels
#endif
