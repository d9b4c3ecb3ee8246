#include "kernels/mla_absorb.h"

#include <gtest/gtest.h>

#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Shape {
  int64_t N, H, Kn, P, Kv, R;
  DType dtype = DType::kFloat32;
};

void PrintTo(const Shape& s, std::ostream* stream) {
  *stream << "N" << s.N << "_H" << s.H << "_Kn" << s.Kn << "_P" << s.P << "_Kv" << s.Kv << "_R" << s.R << "_dtype"
          << static_cast<int>(s.dtype);
}

struct Answers {
  std::vector<float> q_latent, q_rope, o;
};

class MlaAbsorb : public ::testing::TestWithParam<Shape> {
 protected:
  const Shape s = GetParam();
  const std::vector<float> q = normal(s.N * s.H * (s.Kn + s.P), 1), o_latent = normal(s.N * s.H * s.R, 2);
  const Stored kv_b{s.dtype, normal(s.H*(s.Kn + s.Kv) * s.R, 3)};

  Answers run() const {
    Answers y{std::vector<float>(s.N * s.H * s.R), std::vector<float>(s.N * s.H * s.P),
              std::vector<float>(s.N * s.H * s.Kv)};
    const auto weight = kv_b.view<2>({s.H * (s.Kn + s.Kv), s.R});
    mla_absorb_query(in<3>(q, {s.N, s.H, s.Kn + s.P}), weight, out<3>(y.q_latent, {s.N, s.H, s.R}),
                     out<3>(y.q_rope, {s.N, s.H, s.P}))();
    mla_absorb_value(in<3>(o_latent, {s.N, s.H, s.R}), weight, out<3>(y.o, {s.N, s.H, s.Kv}))();
    return y;
  }
};

TEST_P(MlaAbsorb, MatchesReference) {
  std::vector<double> q_latent(s.N * s.H * s.R), o(s.N * s.H * s.Kv);
  std::vector<float> q_rope;
  for (int64_t i = 0; i < s.N * s.H; ++i) {
    const float* weight = kv_b.numbers.data() + i % s.H * (s.Kn + s.Kv) * s.R;
    for (int64_t r = 0; r < s.R; ++r)
      for (int64_t k = 0; k < s.Kn; ++k) q_latent[i * s.R + r] += double(q[i * (s.Kn + s.P) + k]) * weight[k * s.R + r];
    for (int64_t v = 0; v < s.Kv; ++v)
      for (int64_t r = 0; r < s.R; ++r) o[i * s.Kv + v] += double(o_latent[i * s.R + r]) * weight[(s.Kn + v) * s.R + r];
    for (int64_t p = 0; p < s.P; ++p) q_rope.push_back(q[i * (s.Kn + s.P) + s.Kn + p]);
  }
  for (simd::Isa isa : {simd::Isa::kPortable, simd::Isa::kAvx2, simd::Isa::kAvx512}) {
    if (!simd::supported(isa)) continue;
    const simd::Isa before = simd::isa();
    simd::set_isa(isa);
    const Answers y = run();
    expect_close(y.q_latent, q_latent, 2e-5, "q_latent");
    expect_close(y.o, o, 2e-5, "o");
    EXPECT_EQ(y.q_rope, q_rope);
    simd::set_isa(before);
  }
}

TEST_P(MlaAbsorb, AnyNumberOfThreadsGivesTheSameBits) {
  const int before = num_threads();
  set_num_threads(1);
  const Answers alone = run();
  for (int threads : {2, 5}) {
    set_num_threads(threads);
    const Answers y = run();
    EXPECT_EQ(y.q_latent, alone.q_latent);
    EXPECT_EQ(y.o, alone.o);
  }
  set_num_threads(before);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAbsorb,
                         ::testing::Values(Shape{1, 1, 1, 0, 1, 1}, Shape{1, 3, 6, 4, 5, 12}, Shape{3, 2, 13, 2, 9, 37},
                                           Shape{2, 4, 16, 8, 40, 300}, Shape{1, 2, 9, 4, 33, 515, DType::kBFloat16},
                                           Shape{2, 3, 6, 4, 5, 21, DType::kBFloat16},
                                           Shape{2, 3, 10, 4, 7, 50, DType::kFloat16}));

TEST(MlaAbsorbErrors, SaysWhatItWanted) {
  std::vector<float> q(2 * 3 * 6), latent(2 * 3 * 8), rope(2 * 3 * 2), weight(3 * 9 * 8);
  const auto message = [&](std::array<int64_t, 2> shape) {
    try {
      (void)mla_absorb_query(in<3>(q, {2, 3, 6}), {weight.data(), DType::kFloat32, shape}, out<3>(latent, {2, 3, 8}),
                             out<3>(rope, {2, 3, 2}));
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(message({27, 8}), "nothing");
  for (const std::array<int64_t, 2> shape : {std::array<int64_t, 2>{28, 8}, {27, 7}, {12, 8}})
    EXPECT_NE(message(shape).find("kv_b must have shape (3 heads * more than 4, 8), got "), std::string::npos);
}

}  // namespace
}  // namespace attnedit::kernels
