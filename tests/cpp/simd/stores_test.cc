// A launch too large for the caches stores past them: the same bits as the same rows a few at a time.
#include "simd/stores.h"

#include <gtest/gtest.h>

#include "kernels/add.h"
#include "kernels/embedding.h"
#include "kernels/fused_mse.h"
#include "kernels/mla_projection.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "runtime/memory.h"
#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

constexpr int64_t kRows = 96 << 10, kFew = 1 << 10, D = 64;  // two arrays of kRows are more than the last cache

// Results begin at a cache line, as the pool's do.
class Result {
 public:
  explicit Result(int64_t floats) : data_(static_cast<float*>(allocate(floats * sizeof(float)))), floats_(floats) {
    std::fill_n(data_, floats, 7.f);
  }
  ~Result() { release(data_); }
  Result(const Result&) = delete;
  float* row(int64_t n, int64_t width = D) const { return data_ + n * width; }
  bool operator==(const Result& other) const { return std::equal(data_, data_ + floats_, other.data_); }

 private:
  float* data_;
  int64_t floats_;
};

// rows(begin, count, results) launches the kernel on these rows of its inputs.
template <size_t Results, class F>
void expect_same_bits_in_parts(const std::array<int64_t, Results>& widths, const F& rows) {
  on_every_isa([&] {
    std::vector<std::unique_ptr<Result>> whole, parts;
    for (int64_t width : widths) {
      whole.push_back(std::make_unique<Result>(kRows * width));
      parts.push_back(std::make_unique<Result>(kRows * width));
    }
    const auto at = [&](const auto& results, int64_t n) {
      std::array<float*, Results> pointers;
      for (size_t i = 0; i < Results; ++i) pointers[i] = results[i]->row(n, widths[i]);
      return pointers;
    };
    rows(0, kRows, at(whole, 0));
    for (int64_t n = 0; n < kRows; n += kFew) rows(n, kFew, at(parts, n));
    for (size_t i = 0; i < Results; ++i)
      EXPECT_TRUE(*whole[i] == *parts[i]) << "result " << i << " (" << simd::name(simd::isa()) << ")";
  });
}

class Stores : public ::testing::Test {
 protected:
  const std::vector<float> a = normal(kRows * D, 1), b = normal(kRows * D, 2), c = normal(kRows * D, 3);
  View<const float, 2> rows(const std::vector<float>& x, int64_t n, int64_t count) const {
    return {x.data() + n * D, {count, D}};
  }
  View<const float, 1> flat(const std::vector<float>& x, int64_t n, int64_t count) const {
    return {x.data() + n * D, {count * D}};
  }
};

TEST_F(Stores, PastTheCachesOnlyWholeLinesOfLargeLaunches) {
  const Result y(kRows * D);
  const int64_t much = simd::kLastCache / 4 + 1;
  EXPECT_TRUE(simd::stores_past_caches(much, {y.row(0)}, {D}));
  EXPECT_FALSE(simd::stores_past_caches(much - 1, {y.row(0)}, {D}));
  EXPECT_FALSE(simd::stores_past_caches(much, {y.row(0) + 1}, {D}));
  EXPECT_FALSE(simd::stores_past_caches(much, {y.row(0)}, {D + 1}));
}

TEST_F(Stores, Elementwise) {
  expect_same_bits_in_parts<5>({D, D, D, D, D}, [&](int64_t n, int64_t count, const auto& y) {
    const std::array<int64_t, 2> shape = {count, D};
    add(flat(a, n, count), flat(b, n, count), {y[0], {count * D}})();
    fill(3, {y[1], {count * D}})();
    swiglu_forward(rows(a, n, count), rows(b, n, count), {y[2], shape})();
    swiglu_backward(rows(a, n, count), rows(b, n, count), rows(c, n, count), {y[3], shape}, {y[4], shape})();
  });
}

TEST_F(Stores, RmsNorm) {
  const auto weight = normal(D, 4);
  expect_same_bits_in_parts<3>({D, 1, D}, [&](int64_t n, int64_t count, const auto& y) {
    rms_norm_forward(rows(a, n, count), in<1>(weight, {D}), 1e-6f, {y[0], {count, D}}, {y[1], {count}})();
    rms_norm_backward(rows(b, n, count), rows(a, n, count), in<1>(weight, {D}), {y[1], {count}}, {y[2], {count, D}}, {},
                      {})();
  });
}

TEST_F(Stores, Rope) {
  const auto cos = normal(kFew * D / 4, 4), sin = normal(kFew * D / 4, 5);
  const View<const float, 2> cos_view = in<2>(cos, {kFew, D / 4}), sin_view = in<2>(sin, {kFew, D / 4});
  expect_same_bits_in_parts<2>({D, D}, [&](int64_t n, int64_t count, const auto& y) {
    const std::array<int64_t, 4> shape = {count / kFew, kFew, 1, D};
    rope_forward({rows(a, n, count).data, shape}, cos_view, sin_view, 0, 16, RopeLayout::kHalfSplit, {y[0], shape})();
    rope_backward({rows(a, n, count).data, shape}, cos_view, sin_view, 0, 0, RopeLayout::kInterleaved, {y[1], shape})();
  });
}

TEST_F(Stores, MlaProjection) {
  constexpr int64_t R = 48, P = 16;
  const auto weight = normal(R, 4), cos = normal(kFew * P / 2, 5), sin = normal(kFew * P / 2, 6);
  const View<const float, 2> cos_view = in<2>(cos, {kFew, P / 2}), sin_view = in<2>(sin, {kFew, P / 2});
  expect_same_bits_in_parts<8>({R, 1, P, D, D, 32, D, P}, [&](int64_t n, int64_t count, const auto& y) {
    const int64_t B = count / kFew;
    const View<const float, 3> kv_a = {rows(a, n, count).data, {B, kFew, D}};
    mla_compress_forward(kv_a, in<1>(weight, {R}), 1e-6f, cos_view, sin_view, 0, {y[0], {B, kFew, R}},
                         {y[1], {B, kFew}}, {y[2], {B, kFew, P}})();
    mla_compress_backward({b.data() + n * R, {B, kFew, R}}, {c.data() + n * P, {B, kFew, P}}, kv_a, in<1>(weight, {R}),
                          {y[1], {B, kFew}}, cos_view, sin_view, 0, {y[3], {B, kFew, D}}, {}, {})();
    mla_expand_forward({a.data() + n * D, {B, kFew, 1, D}}, {c.data() + n * 32, {B, kFew, 32}}, {y[4], {B, kFew, 1, D}},
                       {y[5], {B, kFew, 1, 32}})();
    mla_expand_backward({a.data() + n * D, {B, kFew, 1, D}}, {b.data() + n * 16, {B, kFew, 1, 16}},
                        {y[6], {B, kFew, 1, D}}, {y[7], {B, kFew, P}})();
  });
}

TEST_F(Stores, Embedding) {
  std::vector<int32_t> tokens(kRows);
  for (int64_t n = 0; n < kRows; ++n) tokens[n] = static_cast<int32_t>(n * 7919 % kFew);
  expect_same_bits_in_parts<1>({D}, [&](int64_t n, int64_t count, const auto& y) {
    embedding_forward({tokens.data() + n, {count}}, {a.data(), DType::kFloat32, {kFew, D}}, {y[0], {count, D}})();
  });
}

TEST_F(Stores, ActivationLosses) {
  std::vector<float> weights(kRows, 0.5f);
  for (int64_t n = 0; n < kRows; n += 5) weights[n] = 0;
  std::vector<float> loss(1), energy(2), scratch(fused_mse_workspace(kRows));
  const View<float, 1> scratch_view = out<1>(scratch, {fused_mse_workspace(kRows)});
  expect_same_bits_in_parts<2>({D, D}, [&](int64_t n, int64_t count, const auto& y) {
    const View<const float, 1> w = {weights.data() + n, {count}};
    cosine_loss(rows(a, n, count), rows(b, n, count), w, out<1>(loss, {1}), {y[0], {count, D}}, scratch_view)();
    // The parts have other energies: made one by an eps beside which they vanish.
    fused_mse(rows(a, n, count), rows(b, n, count), w, 1e30f, out<1>(loss, {1}), out<1>(energy, {2}),
              {y[1], {count, D}}, scratch_view)();
  });
}

}  // namespace
}  // namespace attnedit::kernels
