#include "kernels/cache_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

template <class T>
void store(const std::vector<float>& x, std::array<int64_t, 3> shape, const std::vector<int32_t>& first, int64_t offset,
           std::vector<T>& cache, std::array<int64_t, 3> cache_shape, DType dtype) {
  cache_store(in<3>(x, shape), {first.data(), {shape[0]}}, offset, {cache.data(), dtype, cache_shape})();
}

// Position by position, in order: what is written last stays.
TEST(CacheStore, PositionsLieInTheirSlots) {
  for (const int64_t T : {1, 3, 5, 12}) {
    const int64_t B = 3, W = 2, S = 5, C = 7, offset = 4;
    const std::vector<int32_t> first = {0, 4, -1};
    const auto x = normal(B * T * W, T);
    std::vector<float> cache(B * S * C, 9), want = cache;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t w = 0; w < W; ++w) want[(b * S + (first[b] + t) % S) * C + offset + w] = x[(b * T + t) * W + w];
    store(x, {B, T, W}, first, offset, cache, {B, S, C}, DType::kFloat32);
    EXPECT_EQ(cache, want) << T;
  }
}

// Between neighbours of the type, nearest wins, and even where both are as near.
TEST(CacheStore, RoundsToNearestEven) {
  const float inf = std::numeric_limits<float>::infinity();
  struct Case {
    float x;
    uint16_t bfloat16, float16;
  };
  const std::vector<Case> cases = {
      {0.f, 0x0000, 0x0000},
      {-0.f, 0x8000, 0x8000},
      {1.f, 0x3f80, 0x3c00},
      {-2.5f, 0xc020, 0xc100},
      {1.00390625f, 0x3f80, 0x3c04},         // half a step of bfloat16 above 1: to even
      {1.01171875f, 0x3f82, 0x3c0c},         // one and a half: to even, up
      {1.00390637f, 0x3f81, 0x3c04},         // a little more than half a step
      {1.f + 0x1p-11f, 0x3f80, 0x3c00},      // half a step of float16: to even
      {1.f + 3 * 0x1p-11f, 0x3f80, 0x3c02},  // one and a half
      {0x1p-24f, 0x3380, 0x0001},            // float16's smallest
      {1e5f, 0x47c3, 0x7c00},                // beyond float16
      {3.4e38f, 0x7f80, 0x7c00},             // beyond bfloat16 once rounded
      {inf, 0x7f80, 0x7c00},
      {-inf, 0xff80, 0xfc00},
  };
  for (simd::Isa isa : {simd::Isa::kPortable, simd::Isa::kAvx2, simd::Isa::kAvx512}) {
    if (!simd::supported(isa)) continue;
    const simd::Isa before = simd::isa();
    simd::set_isa(isa);
    std::vector<float> x;
    for (const Case& c : cases) x.push_back(c.x);
    x.push_back(std::nanf(""));
    const int64_t n = static_cast<int64_t>(x.size());
    std::vector<uint16_t> brain(n), half(n);
    store(x, {1, 1, n}, {0}, 0, brain, {1, 1, n}, DType::kBFloat16);
    store(x, {1, 1, n}, {0}, 0, half, {1, 1, n}, DType::kFloat16);
    for (size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(brain[i], cases[i].bfloat16) << simd::name(isa) << " " << x[i];
      EXPECT_EQ(half[i], cases[i].float16) << simd::name(isa) << " " << x[i];
    }
    EXPECT_GT(brain.back() & 0x7fff, 0x7f80);
    EXPECT_GT(half.back() & 0x7fff, 0x7c00);
    simd::set_isa(before);
  }
}

TEST(CacheStore, SaysWhatItWanted) {
  const auto x = normal(12, 1);
  std::vector<float> cache(60);
  const auto message = [&](std::vector<int32_t> first, int64_t offset, std::array<int64_t, 3> shape) {
    try {
      (void)cache_store(in<3>(x, {2, 2, 3}), {first.data(), {static_cast<int64_t>(first.size())}}, offset,
                        {cache.data(), DType::kFloat32, shape});
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(message({0, 0}, 0, {2, 5, 6}), "nothing");
  EXPECT_NE(message({0, 0}, 4, {2, 5, 6}).find("offset must be in [0, 3] for 3 of the 6 columns, got 4"),
            std::string::npos);
  EXPECT_NE(message({0}, 0, {2, 5, 6}).find("first must have 2 numbers, got 1"), std::string::npos);
  EXPECT_NE(message({0, 0}, 0, {1, 5, 6}).find("cache must have shape (2, "), std::string::npos);
}

}  // namespace
}  // namespace attnedit::kernels
