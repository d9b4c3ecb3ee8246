#include "kernels/decode_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Case {
  int64_t B, S, H, G, K, Kv;
  std::vector<int32_t> lengths;
  int64_t gate_width = 0;
  DType dtype = DType::kFloat32;
  GateActivation activation = GateActivation::kSigmoid;

  float scale() const { return 1 / std::sqrt(static_cast<float>(K)); }
};

void PrintTo(const Case& c, std::ostream* stream) {
  *stream << "B" << c.B << "_S" << c.S << "_H" << c.H << "_G" << c.G << "_K" << c.K << "_Kv" << c.Kv << "_gate"
          << c.gate_width << "_dtype" << static_cast<int>(c.dtype);
}

struct Inputs {
  std::vector<float> q, gate;
  Stored k, v;

  explicit Inputs(const Case& c)
      : q(normal(c.B * c.H * c.K, 1)),
        gate(normal(c.B * c.H * c.gate_width, 2)),
        k(c.dtype, normal(c.B * c.S * c.G * c.K, 3)),
        v(c.dtype, normal(c.B * c.S * c.G * c.Kv, 4)) {
    // What lies past a sequence's end must not matter.
    if (c.dtype == DType::kFloat32)
      for (int64_t b = 0; b < c.B; ++b)
        for (auto* x : {&k.numbers, &v.numbers}) {
          const int64_t row = c.G * (x == &k.numbers ? c.K : c.Kv);
          std::fill(x->begin() + (b * c.S + c.lengths[b]) * row, x->begin() + (b + 1) * c.S * row, std::nanf(""));
        }
  }
};

std::vector<double> reference(const Inputs& x, const Case& c) {
  std::vector<double> o(c.B * c.H * c.Kv);
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t h = 0; h < c.H; ++h) {
      const int64_t at = b * c.H + h, g = h / (c.H / c.G);
      std::vector<double> s(c.lengths[b]);
      double top = -1e300, total = 0;
      for (int64_t j = 0; j < c.lengths[b]; ++j) {
        for (int64_t i = 0; i < c.K; ++i)
          s[j] += c.scale() * double(x.q[at * c.K + i]) * x.k.numbers[((b * c.S + j) * c.G + g) * c.K + i];
        top = std::max(top, s[j]);
      }
      for (double& p : s) total += p = std::exp(p - top);
      for (int64_t i = 0; i < c.Kv; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < c.lengths[b]; ++j)
          sum += s[j] / total * x.v.numbers[((b * c.S + j) * c.G + g) * c.Kv + i];
        if (c.gate_width) {
          const double gate = x.gate[at * c.gate_width + (c.gate_width > 1 ? i : 0)];
          sum *= c.activation == GateActivation::kSigmoid ? 1 / (1 + std::exp(-gate)) : std::log1p(std::exp(gate));
        }
        o[at * c.Kv + i] = sum;
      }
    }
  return o;
}

std::vector<float> decoded(const Inputs& x, const Case& c) {
  const int64_t need = decode_attention_workspace(c.B, c.S, c.H, c.G, c.K, c.Kv);
  std::vector<float> o(c.B * c.H * c.Kv, 7.f), workspace(need, std::nanf(""));
  decode_attention(in<4>(x.q, {c.B, 1, c.H, c.K}), x.k.view<4>({c.B, c.S, c.G, c.K}),
                   x.v.view<4>({c.B, c.S, c.G, c.Kv}), {c.lengths.data(), {c.B}},
                   c.gate_width ? in<4>(x.gate, {c.B, 1, c.H, c.gate_width}) : View<const float, 4>{}, c.scale(),
                   c.activation, out<4>(o, {c.B, 1, c.H, c.Kv}), out<1>(workspace, {need}))();
  return o;
}

class DecodeAttention : public ::testing::TestWithParam<Case> {};

TEST_P(DecodeAttention, MatchesReference) {
  const Case c = GetParam();
  const Inputs x(c);
  const auto want = reference(x, c);
  on_every_isa([&] { expect_close(decoded(x, c), want, 3e-6, "o"); });
}

TEST_P(DecodeAttention, SameBitsForAnyThreads) {
  const Case c = GetParam();
  const Inputs x(c);
  on_every_isa([&] { expect_same_bits_for_any_threads([&] { return decoded(x, c); }); });
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DecodeAttention,
    ::testing::Values(
        Case{1, 1, 1, 1, 1, 1, {1}}, Case{2, 9, 4, 2, 8, 4, {9, 3}}, Case{3, 70, 16, 8, 32, 48, {70, 0, 1}, 1},
        Case{1, 200, 6, 2, 33, 7, {199}, 7},
        Case{1, 100, 5, 5, 16, 16, {97}, 1, DType::kFloat32, GateActivation::kSoftplus},
        Case{1, 60, 16, 1, 20, 5, {60}, 5, DType::kFloat32, GateActivation::kSoftplus},
        Case{2, 60, 96, 2, 16, 20, {60, 33}}, Case{1, 30, 20, 2, 13, 36, {30}}, Case{1, 512, 16, 8, 128, 128, {512}},
        Case{1, 2000, 8, 4, 96, 64, {1901}, 1}, Case{2, 50, 8, 4, 32, 16, {50, 17}, 0, DType::kBFloat16},
        Case{2, 50, 8, 4, 32, 16, {50, 17}, 16, DType::kFloat16}, Case{1, 50, 16, 1, 21, 19, {50}, 0, DType::kFloat16},
        Case{1, 50, 3, 1, 21, 19, {50}, 0, DType::kBFloat16}, Case{0, 4, 2, 1, 3, 4, {}}, Case{1, 0, 2, 1, 3, 4, {0}}));

// Token by token through a ring of S slots, which holds the window of S positions, or all while there are few.
TEST(DecodeAttentionIdentity, RingIsAttentionWithAWindow) {
  constexpr int64_t T = 40, H = 6, G = 2, K = 24, Kv = 20;
  const auto q = normal(T * H * K, 1), k = normal(T * G * K, 2), v = normal(T * G * Kv, 3), gate = normal(T * H, 4);
  for (const int64_t S : {int64_t{7}, T}) {
    Case c{1, S, H, G, K, Kv, {0}, 1};
    std::vector<float> o(T * H * Kv), want(T * H * Kv), lse(H * T),
        workspace(attention_forward_workspace(1, T, H, G, K, Kv));
    attention_forward(in<4>(q, {1, T, H, K}), in<4>(k, {1, T, G, K}), in<4>(v, {1, T, G, Kv}),
                      in<4>(gate, {1, T, H, 1}), {}, {c.scale(), S}, out<4>(o, {1, T, H, Kv}),
                      out<4>(want, {1, T, H, Kv}), out<3>(lse, {1, H, T}),
                      out<1>(workspace, {int64_t(workspace.size())}))();
    Inputs x(c);
    for (int64_t t = 0; t < T; ++t) {
      x.q.assign(q.begin() + t * H * K, q.begin() + (t + 1) * H * K);
      x.gate.assign(gate.begin() + t * H, gate.begin() + (t + 1) * H);
      std::copy_n(k.begin() + t * G * K, G * K, x.k.numbers.begin() + t % S * G * K);
      std::copy_n(v.begin() + t * G * Kv, G * Kv, x.v.numbers.begin() + t % S * G * Kv);
      c.lengths = {static_cast<int32_t>(std::min(t + 1, S))};
      expect_close(decoded(x, c), std::vector<float>(want.begin() + t * H * Kv, want.begin() + (t + 1) * H * Kv), 2e-6,
                   "o");
    }
  }
}

TEST(DecodeAttentionEdges, HugeScoresStayFiniteAndNanIsNotHidden) {
  const Case c{1, 150, 4, 2, 8, 8, {150}};
  Inputs x(c);
  for (float& value : x.q) value *= 300;
  const auto want = reference(x, c);
  on_every_isa([&] { expect_close(decoded(x, c), want, 5e-4, "o"); });
  x.q[8 + 5] = std::numeric_limits<float>::quiet_NaN();
  on_every_isa([&] {
    const auto o = decoded(x, c);
    for (int64_t h = 0; h < 4; ++h) ASSERT_EQ(std::isnan(o[h * 8]), h == 1) << h << simd::name(simd::isa());
  });
}

TEST(DecodeAttentionMessages, NameWhatWasWanted) {
  std::vector<float> x(4096);
  const auto call = [&](std::array<int64_t, 4> q, std::array<int64_t, 4> k, std::array<int64_t, 4> v,
                        std::vector<int32_t> lengths, std::array<int64_t, 4> gate, int64_t space = 4096,
                        float scale = 1) {
    return message([&] {
      (void)decode_attention(in<4>(x, q), {x.data(), DType::kFloat32, k}, {x.data(), DType::kFloat32, v},
                             {lengths.data(), {int64_t(lengths.size())}},
                             gate[3] ? in<4>(x, gate) : View<const float, 4>{}, scale, GateActivation::kSigmoid,
                             out<4>(x, {2, 1, 4, 5}), out<1>(x, {space}));
    });
  };
  const std::array<int64_t, 4> q{2, 1, 4, 3}, k{2, 9, 2, 3}, v{2, 9, 2, 5}, none{};
  EXPECT_EQ(call({2, 2, 4, 3}, k, v, {1, 1}, none),
            "[decode_attention] q must have shape (2, 1, 4, 3), got (2, 2, 4, 3)");
  EXPECT_EQ(call(q, {2, 9, 3, 3}, v, {1, 1}, none),
            "[decode_attention] k must have a number of heads that divides 4, got 3");
  EXPECT_EQ(call(q, {2, 9, 2, 4}, v, {1, 1}, none),
            "[decode_attention] k must have shape (2, 9, 2, 3), got (2, 9, 2, 4)");
  EXPECT_EQ(call(q, k, {2, 8, 2, 5}, {1, 1}, none),
            "[decode_attention] v must have shape (2, 9, 2, 5), got (2, 8, 2, 5)");
  EXPECT_EQ(call(q, k, v, {1, 10}, none),
            "[decode_attention] lengths[1] must be 0, or at least 1 and at most the cache's 9, got 10");
  EXPECT_EQ(call(q, k, v, {1, 1}, {2, 1, 4, 2}),
            "[decode_attention] gate must have shape (2, 1, 4, 1) or (2, 1, 4, 5), got (2, 1, 4, 2)");
  EXPECT_EQ(call(q, k, v, {1, 1}, none, 5), "[decode_attention] workspace must have at least " +
                                                std::to_string(decode_attention_workspace(2, 9, 4, 2, 3, 5)) +
                                                " floats, got 5");
  EXPECT_EQ(call(q, k, v, {1, 1}, none, 4096, NAN), "[decode_attention] scale must be finite, got nan");
}

}  // namespace
}  // namespace attnedit::kernels
