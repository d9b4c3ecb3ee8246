#include "kernels/mla_decode.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <limits>

#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Case {
  int64_t B, T, S, H, R, P;
  std::vector<int32_t> lengths;
  DType dtype = DType::kFloat32;
  Compute compute = Compute::kFloat32;

  // Of pairs: 2^-9 relative of queries and weights.
  double tolerance() const { return compute == Compute::kBFloat16 ? 1.5e-2 : 3e-6; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(R + P)); }
};

void PrintTo(const Case& c, std::ostream* stream) {
  *stream << "B" << c.B << "_T" << c.T << "_S" << c.S << "_H" << c.H << "_R" << c.R << "_P" << c.P << "_dtype"
          << static_cast<int>(c.dtype);
}

struct Inputs {
  std::vector<float> q_latent, q_rope;
  Stored cache;

  explicit Inputs(const Case& c)
      : q_latent(normal(c.B * c.T * c.H * c.R, 1)),
        q_rope(normal(c.B * c.T * c.H * c.P, 2)),
        cache(c.dtype, normal(c.B * c.S * (c.R + c.P), 3)) {
    // What lies past a sequence's end must not matter.
    if (c.dtype == DType::kFloat32)
      for (int64_t b = 0; b < c.B; ++b)
        std::fill(cache.numbers.begin() + (b * c.S + c.lengths[b]) * (c.R + c.P),
                  cache.numbers.begin() + (b + 1) * c.S * (c.R + c.P), std::nanf(""));
  }
};

std::vector<double> reference(const Inputs& x, const Case& c) {
  std::vector<double> o(x.q_latent.size());
  const int64_t width = c.R + c.P;
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t t = 0; t < c.T; ++t)
      for (int64_t h = 0; h < c.H; ++h) {
        const int64_t at = (b * c.T + t) * c.H + h;
        const float* cache = x.cache.numbers.data() + b * c.S * width;
        std::vector<double> s;
        double top = -1e300, total = 0;
        for (int64_t j = 0; j <= c.lengths[b] - c.T + t; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < c.R; ++i) dot += double(x.q_latent[at * c.R + i]) * cache[j * width + i];
          for (int64_t i = 0; i < c.P; ++i) dot += double(x.q_rope[at * c.P + i]) * cache[j * width + c.R + i];
          s.push_back(dot * c.scale());
          top = std::max(top, s.back());
        }
        for (double& p : s) total += p = std::exp(p - top);
        for (size_t j = 0; j < s.size(); ++j)
          for (int64_t i = 0; i < c.R; ++i) o[at * c.R + i] += s[j] / total * cache[j * width + i];
      }
  return o;
}

std::vector<float> decoded(const Inputs& x, const Case& c, WeightView<3> cache) {
  const int64_t need = mla_decode_workspace(c.B, c.T, cache.dim(1), c.H, c.R, c.P);
  std::vector<float> o(x.q_latent.size(), 7.f), workspace(need, std::nanf(""));
  mla_decode(in<4>(x.q_latent, {c.B, c.T, c.H, c.R}), in<4>(x.q_rope, {c.B, c.T, c.H, c.P}), cache,
             {c.lengths.data(), {c.B}}, c.scale(), out<4>(o, {c.B, c.T, c.H, c.R}), out<1>(workspace, {need}),
             c.compute)();
  return o;
}
std::vector<float> decoded(const Inputs& x, const Case& c) {
  return decoded(x, c, x.cache.view<3>({c.B, c.S, c.R + c.P}));
}

class MlaDecode : public ::testing::TestWithParam<Case> {};

TEST_P(MlaDecode, MatchesReference) {
  const Case c = GetParam();
  const Inputs x(c);
  const auto want = reference(x, c);
  on_every_isa([&] { expect_close(decoded(x, c), want, c.tolerance(), "o"); });
}

TEST_P(MlaDecode, SameBitsForAnyThreads) {
  const Case c = GetParam();
  const Inputs x(c);
  on_every_isa([&] { expect_same_bits_for_any_threads([&] { return decoded(x, c); }); });
}

INSTANTIATE_TEST_SUITE_P(Cases, MlaDecode,
                         ::testing::Values(Case{1, 1, 1, 1, 1, 1, {1}}, Case{2, 1, 9, 4, 8, 4, {9, 3}},
                                           Case{3, 1, 70, 16, 32, 8, {70, 0, 1}}, Case{1, 1, 200, 16, 33, 7, {199}},
                                           Case{1, 1, 100, 20, 16, 16, {97}}, Case{1, 1, 60, 48, 20, 5, {60}},
                                           Case{2, 3, 60, 16, 48, 16, {60, 3}}, Case{1, 5, 66, 5, 17, 3, {66}},
                                           Case{1, 4, 40, 2, 16, 0, {20}}, Case{1, 1, 2500, 16, 128, 64, {2300}},
                                           Case{1, 130, 1500, 1, 160, 16, {1090}},
                                           Case{2, 1, 60, 16, 32, 16, {60, 49}, DType::kBFloat16},
                                           Case{2, 1, 601, 16, 46, 16, {60, 599}, DType::kBFloat16, Compute::kBFloat16},
                                           Case{1, 2, 131, 20, 75, 5, {131}, DType::kBFloat16, Compute::kBFloat16},
                                           Case{1, 1, 131, 20, 70, 5, {131}, DType::kBFloat16, Compute::kBFloat16},
                                           Case{2, 2, 60, 3, 32, 16, {2, 49}, DType::kFloat16},
                                           Case{1, 1, 60, 16, 21, 6, {60}, DType::kFloat16}, Case{0, 1, 4, 2, 3, 4, {}},
                                           Case{2, 0, 4, 2, 3, 4, {3, 4}}, Case{1, 1, 0, 2, 3, 4, {0}}));

// Keys and values of every head written out, as training does: k_h = [W_uk,h latent ; k_rope], v_h = W_uv,h latent.
TEST(MlaDecodeIdentity, AbsorbedIsExpanded) {
  constexpr int64_t S = 90, H = 16, R = 24, P = 8, Kn = 12, Kv = 10;
  Case c{1, 1, S, H, R, P, {S}};
  Inputs x(c);
  const auto q_nope = normal(H * Kn, 4), w_uk = normal(H * Kn * R, 5, 0.3f), w_uv = normal(H * Kv * R, 6, 0.3f);
  for (int64_t h = 0; h < H; ++h)
    for (int64_t r = 0; r < R; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < Kn; ++i) sum += double(q_nope[h * Kn + i]) * w_uk[(h * Kn + i) * R + r];
      x.q_latent[h * R + r] = static_cast<float>(sum);
    }
  const auto times = [&](const std::vector<float>& w, int64_t row, const float* latent) {
    double sum = 0;
    for (int64_t r = 0; r < R; ++r) sum += double(w[row * R + r]) * latent[r];
    return sum;
  };
  on_every_isa([&] {
    const std::vector<float> o = decoded(x, c);
    for (int64_t h = 0; h < H; ++h) {
      double total = 0, want[Kv] = {};
      for (int64_t j = 0; j < S; ++j) {
        const float* row = x.cache.numbers.data() + j * (R + P);
        double s = 0;
        for (int64_t i = 0; i < Kn; ++i) s += q_nope[h * Kn + i] * times(w_uk, h * Kn + i, row);
        for (int64_t i = 0; i < P; ++i) s += double(x.q_rope[h * P + i]) * row[R + i];
        const double p = std::exp(s * c.scale());
        total += p;
        for (int64_t i = 0; i < Kv; ++i) want[i] += p * times(w_uv, h * Kv + i, row);
      }
      for (int64_t i = 0; i < Kv; ++i) EXPECT_NEAR(times(w_uv, h * Kv + i, &o[h * R]), want[i] / total, 1e-5);
    }
  });
}

TEST(MlaDecodeBits, SameForAnyNeighboursAndRoom) {
  const Case both{2, 1, 3000, 16, 96, 32, {2999, 700}};
  const Inputs x(both);
  const std::vector<float> o = decoded(x, both);
  Case alone = both;
  alone.B = 1;
  alone.lengths = {2999};
  const auto first = decoded(x, alone, x.cache.view<3>({1, 3000, 128}));
  const auto roomy = decoded(x, alone, x.cache.view<3>({1, 6000, 128}));
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 16 * 96, o.begin()));
  EXPECT_EQ(first, roomy);
}

// The second sequence begins past 2^31 numbers. Only the pages that it fills are ever touched.
TEST(MlaDecodeEdges, CacheBeyond32Bits) {
  const Case c{2, 1, 1 << 24, 16, 112, 16, {0, 50}, DType::kBFloat16};
  const int64_t width = c.R + c.P, offset = c.S * width;
  ASSERT_GE(offset, int64_t{1} << 31);
  const size_t bytes = 2 * offset * sizeof(uint16_t);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "no address space for " << bytes << " bytes";
  Case small{2, 1, 50, c.H, c.R, c.P, c.lengths, c.dtype};
  const Inputs x(small);
  std::copy(x.cache.halves.begin() + 50 * width, x.cache.halves.end(), static_cast<uint16_t*>(memory) + offset);
  EXPECT_EQ(decoded(x, small, {memory, c.dtype, {2, c.S, width}}), decoded(x, small));
  munmap(memory, bytes);
}

TEST(MlaDecodeEdges, HugeScoresStayFiniteAndNanIsNotHidden) {
  const Case c{1, 1, 300, 16, 16, 16, {300}};
  Inputs x(c);
  for (float& value : x.q_latent) value *= 300;
  const auto want = reference(x, c);
  on_every_isa([&] { expect_close(decoded(x, c), want, 5e-4, "o"); });
  x.q_latent[3 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();
  on_every_isa([&] {
    const auto o = decoded(x, c);
    for (int64_t h = 0; h < 16; ++h) ASSERT_EQ(std::isnan(o[h * 16]), h == 3) << h << simd::name(simd::isa());
  });
}

TEST(MlaDecodeMessages, NameWhatWasWanted) {
  std::vector<float> x(4096);
  const auto call = [&](std::array<int64_t, 4> q_rope, std::array<int64_t, 3> cache, std::vector<int32_t> lengths,
                        int64_t space = 4096, float scale = 1) {
    return message([&] {
      (void)mla_decode(in<4>(x, {2, 1, 4, 6}), in<4>(x, q_rope), {x.data(), DType::kFloat32, cache},
                       {lengths.data(), {int64_t(lengths.size())}}, scale, out<4>(x, {2, 1, 4, 6}), out<1>(x, {space}));
    });
  };
  const std::array<int64_t, 4> q{2, 1, 4, 2};
  const std::array<int64_t, 3> cache{2, 9, 8};
  EXPECT_EQ(call({2, 1, 3, 2}, cache, {1, 1}), "[mla_decode] q_rope must have shape (2, 1, 4, 2), got (2, 1, 3, 2)");
  EXPECT_EQ(call(q, {2, 9, 7}, {1, 1}), "[mla_decode] cache must have shape (2, 9, 8), got (2, 9, 7)");
  EXPECT_EQ(call(q, cache, {1}), "[mla_decode] lengths must have shape (2,), got (1,)");
  EXPECT_EQ(call(q, cache, {1, 10}),
            "[mla_decode] lengths[1] must be 0, or at least 1 and at most the cache's 9, got 10");
  EXPECT_EQ(call(q, cache, {-1, 1}),
            "[mla_decode] lengths[0] must be 0, or at least 1 and at most the cache's 9, got -1");
  EXPECT_EQ(call(q, cache, {1, 1}, 5), "[mla_decode] workspace must have at least " +
                                           std::to_string(mla_decode_workspace(2, 1, 9, 4, 6, 2)) + " floats, got 5");
  EXPECT_EQ(call(q, cache, {1, 1}, 4096, INFINITY), "[mla_decode] scale must be finite, got inf");
}

}  // namespace
}  // namespace attnedit::kernels
