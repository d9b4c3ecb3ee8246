#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

enum class Gate { kNone, kHeadSigmoid, kHeadSoftplus, kElementSigmoid, kElementSoftplus };

struct Case {
  int64_t B, T, H, G, K, Kv, window;
  Gate gate = Gate::kNone;
  Compute compute = Compute::kFloat32;
  std::vector<int64_t> documents = {};  // where they begin, besides 0; one later in every following row

  int64_t start(int64_t b, int64_t t) const {
    int64_t start = 0;
    for (const int64_t begin : documents)
      if (begin + b <= t) start = begin + b;
    return start;
  }
  std::vector<int32_t> starts() const {
    std::vector<int32_t> starts;
    if (!documents.empty())
      for (int64_t n = 0; n < B * T; ++n) starts.push_back(start(n / T, n % T));
    return starts;
  }
  bool softplus() const { return gate == Gate::kHeadSoftplus || gate == Gate::kElementSoftplus; }
  int64_t gate_width() const {
    return gate == Gate::kNone ? 0 : gate == Gate::kElementSigmoid || gate == Gate::kElementSoftplus ? Kv : 1;
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(K)); }
  AttentionOptions options() const {
    return {scale(), window, softplus() ? GateActivation::kSoftplus : GateActivation::kSigmoid, compute};
  }
  std::array<int64_t, 4> q_shape() const { return {B, T, H, K}; }
  std::array<int64_t, 4> k_shape() const { return {B, T, G, K}; }
  std::array<int64_t, 4> v_shape() const { return {B, T, G, Kv}; }
  std::array<int64_t, 4> o_shape() const { return {B, T, H, Kv}; }
  std::array<int64_t, 4> gate_shape() const { return {B, T, H, gate_width()}; }
};

void PrintTo(const Case& c, std::ostream* stream) {
  *stream << "B" << c.B << "_T" << c.T << "_H" << c.H << "_G" << c.G << "_K" << c.K << "_Kv" << c.Kv << "_window"
          << c.window << "_gate" << static_cast<int>(c.gate) << "_documents" << c.documents.size();
}

template <class T>
struct Inputs {
  std::vector<T> q, k, v, gate;
};
template <class T>
struct Outputs {
  std::vector<T> o, y, lse;
};

Inputs<float> inputs_of(const Case& c) {
  return {normal(c.B * c.T * c.H * c.K, 1), normal(c.B * c.T * c.G * c.K, 2), normal(c.B * c.T * c.G * c.Kv, 3),
          normal(c.B * c.T * c.H * c.gate_width(), 4)};
}

// The definition, in any number type: the only other place that knows the formula.
template <class T>
Outputs<T> reference(const Inputs<T>& x, const Case& c) {
  Outputs<T> r{std::vector<T>(c.B * c.T * c.H * c.Kv), {}, std::vector<T>(c.B * c.H * c.T)};
  r.y.resize(r.o.size());
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t h = 0; h < c.H; ++h)
      for (int64_t t = 0; t < c.T; ++t) {
        const int64_t row = (b * c.T + t) * c.H + h, g = h / (c.H / c.G);
        const int64_t first = std::max(c.start(b, t), c.window > 0 ? t - c.window + 1 : 0);
        std::vector<T> s(t - first + 1);
        double top = -1e300;
        for (int64_t j = first; j <= t; ++j) {
          T dot = 0;
          for (int64_t i = 0; i < c.K; ++i) dot += x.q[row * c.K + i] * x.k[((b * c.T + j) * c.G + g) * c.K + i];
          s[j - first] = dot * double(c.scale());
          top = std::max(top, std::real(s[j - first]));
        }
        T total = 0;
        for (T& p : s) total += p = std::exp(p - top);
        for (int64_t j = first; j <= t; ++j)
          for (int64_t i = 0; i < c.Kv; ++i)
            r.o[row * c.Kv + i] += s[j - first] / total * x.v[((b * c.T + j) * c.G + g) * c.Kv + i];
        r.lse[(b * c.H + h) * c.T + t] = (top + std::log(total)) / std::log(2.0);
        for (int64_t i = 0; i < c.Kv; ++i) {
          T factor = 1;
          if (c.gate_width()) {
            const T gate = x.gate[row * c.gate_width() + (c.gate_width() > 1 ? i : 0)];
            factor = c.softplus() ? std::log(1.0 + std::exp(gate)) : 1.0 / (1.0 + std::exp(-gate));
          }
          r.y[row * c.Kv + i] = factor * r.o[row * c.Kv + i];
        }
      }
  return r;
}

View<const int32_t, 2> view(const std::vector<int32_t>& starts, const Case& c) {
  return starts.empty() ? View<const int32_t, 2>{} : View<const int32_t, 2>{starts.data(), {c.B, c.T}};
}

Outputs<float> forward(const Inputs<float>& x, const Case& c) {
  const bool gated = c.gate != Gate::kNone;
  Outputs<float> r{std::vector<float>(c.B * c.T * c.H * c.Kv, 7.f), {}, std::vector<float>(c.B * c.H * c.T, 7.f)};
  r.y.resize(gated ? r.o.size() : 0);
  const std::vector<int32_t> starts = c.starts();
  const int64_t need = attention_forward_workspace(c.B, c.T, c.H, c.G, c.K, c.Kv);
  std::vector<float> workspace(need, std::nanf(""));
  attention_forward(in<4>(x.q, c.q_shape()), in<4>(x.k, c.k_shape()), in<4>(x.v, c.v_shape()),
                    in<4>(x.gate, c.gate_shape()), view(starts, c), c.options(), out<4>(r.o, c.o_shape()),
                    out<4>(r.y, c.o_shape()), out<3>(r.lse, {c.B, c.H, c.T}), out<1>(workspace, {need}))();
  return r;
}

Inputs<float> backward(const std::vector<float>& dy, const Inputs<float>& x, const Outputs<float>& r, const Case& c) {
  const auto stale = [](const std::vector<float>& like) { return std::vector<float>(like.size(), 7.f); };
  Inputs<float> d{stale(x.q), stale(x.k), stale(x.v), stale(x.gate)};
  const std::vector<int32_t> starts = c.starts();
  const int64_t need = attention_backward_workspace(c.B, c.T, c.H, c.G, c.K, c.Kv);
  std::vector<float> workspace(need, std::nanf(""));
  attention_backward(in<4>(dy, c.o_shape()), in<4>(x.q, c.q_shape()), in<4>(x.k, c.k_shape()), in<4>(x.v, c.v_shape()),
                     in<4>(x.gate, c.gate_shape()), view(starts, c), c.options(), in<4>(r.o, c.o_shape()),
                     in<3>(r.lse, {c.B, c.H, c.T}), out<4>(d.q, c.q_shape()), out<4>(d.k, c.k_shape()),
                     out<4>(d.v, c.v_shape()), out<4>(d.gate, c.gate_shape()), out<1>(workspace, {need}))();
  return d;
}

// Of products whose factors are rounded to bfloat16, 2^-9 relative, the probabilities and their gradients among them.
constexpr double kForwardTolerance[] = {3e-6, 1.5e-2}, kBackwardTolerance[] = {2e-5, 4e-2};
constexpr Compute kComputes[] = {Compute::kFloat32, Compute::kBFloat16};

class Attention : public ::testing::TestWithParam<Case> {};

TEST_P(Attention, ForwardMatchesReference) {
  Case c = GetParam();
  const Inputs<float> x = inputs_of(c);
  const auto want =
      reference<double>({lift<double>(x.q), lift<double>(x.k), lift<double>(x.v), lift<double>(x.gate)}, c);
  on_every_isa([&] {
    for (const Compute compute : kComputes) {
      c.compute = compute;
      const double tolerance = kForwardTolerance[int(compute)];
      const Outputs<float> got = forward(x, c);
      expect_close(got.o, want.o, tolerance, "o");
      expect_close(got.lse, want.lse, tolerance, "lse");
      if (c.gate != Gate::kNone) expect_close(got.y, want.y, tolerance, "y");
    }
  });
}

// Every element of a short case; of a long one, every few: a complex step costs a whole forward pass.
TEST_P(Attention, BackwardMatchesComplexStep) {
  Case c = GetParam();
  const Inputs<float> x = inputs_of(c);
  const auto dy = normal(c.B * c.T * c.H * c.Kv, 5);
  Inputs<Complex> z{lift<Complex>(x.q), lift<Complex>(x.k), lift<Complex>(x.v), lift<Complex>(x.gate)};
  const auto step = [&](std::vector<Complex>& input) {
    const size_t stride = c.T < 20 ? 1 : input.size() / 16 | 1;
    std::vector<std::pair<size_t, double>> slopes;
    for (size_t i = stride / 2; i < input.size(); i += stride) {
      input[i] += Complex(0, 1e-50);
      const auto y = reference(z, c).y;
      input[i] = input[i].real();
      double slope = 0;
      for (size_t j = 0; j < y.size(); ++j) slope += double(dy[j]) * y[j].imag();
      slopes.push_back({i, slope / 1e-50});
    }
    return slopes;
  };
  const auto q = step(z.q), k = step(z.k), v = step(z.v), gate = step(z.gate);
  const auto expect = [&](const std::vector<float>& got, const std::vector<std::pair<size_t, double>>& want,
                          const char* what) {
    for (const auto& [i, slope] : want)
      ASSERT_NEAR(got[i], slope, kBackwardTolerance[int(c.compute)] * (1 + std::abs(slope)))
          << what << "[" << i << "] (" << simd::name(simd::isa()) << ", " << num_threads() << " threads)";
  };
  const int before = num_threads();
  on_every_isa([&] {
    for (const int run : {0, 1, 2, 3}) {
      set_num_threads(run % 2 ? 3 : 1);
      c.compute = kComputes[run / 2];
      const Inputs<float> d = backward(dy, x, forward(x, c), c);
      expect(d.q, q, "dq");
      expect(d.k, k, "dk");
      expect(d.v, v, "dv");
      expect(d.gate, gate, "dgate");
    }
  });
  set_num_threads(before);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Attention,
    ::testing::Values(Case{1, 1, 1, 1, 1, 1, 0}, Case{2, 9, 4, 2, 8, 8, 0}, Case{1, 7, 2, 1, 5, 3, 3},
                      Case{1, 13, 7, 1, 5, 2, 4, Gate::kHeadSigmoid}, Case{2, 6, 2, 2, 3, 17, 1, Gate::kElementSigmoid},
                      Case{1, 8, 3, 3, 16, 5, 100, Gate::kHeadSoftplus},
                      Case{1, 5, 2, 1, 33, 40, 0, Gate::kElementSoftplus}, Case{1, 97, 2, 1, 4, 3, 0},
                      Case{1, 401, 2, 1, 3, 2, 0, Gate::kHeadSigmoid}, Case{1, 389, 2, 2, 2, 3, 37},
                      Case{1, 300, 1, 1, 6, 5, 193, Gate::kElementSigmoid}, Case{1, 107, 2, 1, 64, 80, 0},
                      Case{1, 100, 1, 1, 192, 128, 50, Gate::kHeadSoftplus}));

// Documents of one token, that begin with a tile's row or one beside it, that lie within a panel or over several
// blocks.
INSTANTIATE_TEST_SUITE_P(Documents, Attention,
                         ::testing::Values(Case{2, 9, 4, 2, 8, 8, 0, Gate::kNone, {}, {1, 2, 5}},
                                           Case{1, 19, 2, 1, 5, 3, 4, Gate::kElementSigmoid, {}, {1, 7, 18}},
                                           Case{2, 97, 2, 1, 4, 3, 0, Gate::kHeadSigmoid, {}, {31, 32, 33, 90}},
                                           Case{
                                               1, 401, 2, 1, 3, 2, 0, Gate::kHeadSigmoid, {}, {96, 192, 193, 288, 400}},
                                           Case{1, 389, 4, 2, 2, 3, 37, Gate::kNone, {}, {20, 60, 191, 300, 310}},
                                           Case{3, 300, 1, 1, 6, 5, 193, Gate::kElementSoftplus, {}, {250}}));

TEST(AttentionBits, SameForAnyThreads) {
  for (const Case& c : {Case{1, 500, 4, 2, 24, 20, 0, Gate::kElementSigmoid}, Case{2, 450, 6, 2, 5, 16, 130},
                        Case{5, 50, 4, 2, 8, 8, 0, Gate::kHeadSigmoid},
                        Case{1, 471, 4, 2, 7, 9, 101, Gate::kHeadSigmoid, Compute::kBFloat16},
                        Case{2, 471, 4, 2, 7, 9, 0, Gate::kNone, Compute::kFloat32, {100, 200, 301}}}) {
    const Inputs<float> x = inputs_of(c);
    const auto dy = normal(c.B * c.T * c.H * c.Kv, 5);
    on_every_isa([&] {
      expect_same_bits_for_any_threads([&] {
        const Outputs<float> r = forward(x, c);
        const Inputs<float> d = backward(dy, x, r, c);
        std::vector<float> all;
        for (const auto* part : {&r.o, &r.y, &r.lse, &d.q, &d.k, &d.v, &d.gate})
          all.insert(all.end(), part->begin(), part->end());
        return all;
      });
    });
  }
}

TEST(AttentionEdges, NoTokensOrNoBatchIsNothing) {
  for (const Case& c : {Case{2, 0, 2, 1, 4, 4, 0}, Case{0, 5, 2, 1, 4, 4, 0}}) {
    const Inputs<float> x = inputs_of(c);
    EXPECT_TRUE(forward(x, c).o.empty());
    EXPECT_TRUE(backward({}, x, {}, c).q.empty());
  }
}

// Scores of several hundred, whose differences underflow, and a gate that saturates.
TEST(AttentionEdges, HugeScoresStayFinite) {
  const Case c{1, 150, 2, 1, 8, 8, 0, Gate::kHeadSoftplus};
  Inputs<float> x = inputs_of(c);
  for (float& value : x.q) value *= 300;
  for (float& value : x.gate) value *= 200;
  const auto want =
      reference<double>({lift<double>(x.q), lift<double>(x.k), lift<double>(x.v), lift<double>(x.gate)}, c);
  on_every_isa([&] {
    const Outputs<float> got = forward(x, c);
    expect_close(got.o, want.o, 5e-4, "o");
    for (const float value : backward(got.y, x, got, c).k) ASSERT_TRUE(std::isfinite(value));
    for (const float value : got.y) ASSERT_TRUE(std::isfinite(value));
  });
}

TEST(AttentionEdges, NanIsNotHidden) {
  const Case c{1, 120, 1, 1, 8, 8, 0, Gate::kHeadSigmoid};
  Inputs<float> x = inputs_of(c);
  x.q[100 * 8 + 3] = std::numeric_limits<float>::quiet_NaN();
  x.gate[7] = std::numeric_limits<float>::quiet_NaN();
  on_every_isa([&] {
    const Outputs<float> got = forward(x, c);
    for (int64_t t = 0; t < c.T; ++t)
      ASSERT_EQ(std::isnan(got.y[t * 8]), t == 7 || t == 100) << t << " " << simd::name(simd::isa());
  });
}

// A document's outputs and gradients are what the same tokens give alone.
TEST(AttentionDocuments, AreAsAlone) {
  const Case packed{1, 260, 4, 2, 9, 7, 50, Gate::kHeadSigmoid, Compute::kFloat32, {3, 100, 101, 240}};
  const Inputs<float> x = inputs_of(packed);
  const auto dy = normal(packed.T * packed.H * packed.Kv, 5);
  const Outputs<float> r = forward(x, packed);
  const Inputs<float> d = backward(dy, x, r, packed);
  const std::vector<int64_t> edges = {0, 3, 100, 101, 240, 260};
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    Case alone = packed;
    alone.T = edges[i + 1] - edges[i], alone.documents = {};
    const auto part = [&](const std::vector<float>& all) {
      const int64_t row = all.size() / packed.T;
      return std::vector<float>(all.begin() + edges[i] * row, all.begin() + edges[i + 1] * row);
    };
    const Inputs<float> own{part(x.q), part(x.k), part(x.v), part(x.gate)};
    const Outputs<float> want = forward(own, alone);
    const Inputs<float> slopes = backward(part(dy), own, want, alone);
    expect_close(part(r.y), want.y, 1e-6, "y");
    expect_close(part(d.q), slopes.q, 1e-5, "dq");
    expect_close(part(d.k), slopes.k, 1e-5, "dk");
    expect_close(part(d.v), slopes.v, 1e-5, "dv");
    expect_close(part(d.gate), slopes.gate, 1e-5, "dgate");
  }
}

TEST(AttentionMessages, StartsThatFallOrLieAhead) {
  const std::vector<float> x(3);
  std::vector<float> y(3), workspace(attention_forward_workspace(1, 3, 1, 1, 1, 1));
  const auto call = [&](const std::vector<int32_t>& starts) {
    const std::array<int64_t, 4> shape{1, 3, 1, 1};
    (void)attention_forward(in<4>(x, shape), in<4>(x, shape), in<4>(x, shape), {},
                            {starts.data(), {1, int64_t(starts.size())}}, {1.f}, out<4>(y, shape), {},
                            out<3>(y, {1, 1, 3}), out<1>(workspace, {int64_t(workspace.size())}));
  };
  EXPECT_EQ(message([&] {
              call({0, 1, 0});
            }),
            "[attention_forward] document_starts must lie in [1, 2] at position 2 of row 0, got 0");
  EXPECT_EQ(message([&] {
              call({0, 2, 2});
            }),
            "[attention_forward] document_starts must lie in [0, 1] at position 1 of row 0, got 2");
  EXPECT_EQ(message([&] {
              call({-1, 1, 1});
            }),
            "[attention_forward] document_starts must lie in [0, 0] at position 0 of row 0, got -1");
  EXPECT_EQ(message([&] { call({0, 1}); }), "[attention_forward] document_starts must have shape (1, 3), got (1, 2)");
}

TEST(AttentionMessages, NameWhatWasWanted) {
  std::vector<float> x(64);
  const auto call = [&](std::array<int64_t, 4> k, std::array<int64_t, 4> v, std::array<int64_t, 4> gate, bool y,
                        int64_t space) {
    (void)attention_forward(in<4>(x, {1, 2, 4, 3}), in<4>(x, k), in<4>(x, v),
                            gate[3] ? in<4>(x, gate) : View<const float, 4>{}, {}, {1.f}, out<4>(x, {1, 2, 4, 5}),
                            y ? out<4>(x, {1, 2, 4, 5}) : View<float, 4>{}, out<3>(x, {1, 4, 2}), out<1>(x, {space}));
  };
  const std::array<int64_t, 4> k{1, 2, 2, 3}, v{1, 2, 2, 5}, none{};
  EXPECT_EQ(message([&] {
              call({1, 2, 2, 4}, v, none, false, 64);
            }),
            "[attention_forward] k must have shape (1, 2, 2, 3), got (1, 2, 2, 4)");
  EXPECT_EQ(message([&] {
              call({1, 2, 3, 3}, {1, 2, 3, 5}, none, false, 64);
            }),
            "[attention_forward] k must have a number of heads that divides 4, got 3");
  EXPECT_EQ(message([&] {
              call(k, v, {1, 2, 4, 2}, true, 64);
            }),
            "[attention_forward] gate must have shape (1, 2, 4, 1) or (1, 2, 4, 5), got (1, 2, 4, 2)");
  EXPECT_EQ(message([&] {
              call(k, v, {1, 2, 4, 1}, false, 64);
            }),
            "[attention_forward] y must be given with a gate, and only then");
  EXPECT_EQ(message([&] { call(k, v, none, false, 64); }),
            "[attention_forward] workspace must have at least " +
                std::to_string(attention_forward_workspace(1, 2, 4, 2, 3, 5)) + " floats, got 64");
  EXPECT_EQ(message([&] {
              (void)attention_backward(in<4>(x, {1, 2, 4, 5}), in<4>(x, {1, 2, 4, 3}), in<4>(x, k), in<4>(x, v), {}, {},
                                       {1.f}, in<4>(x, {1, 2, 4, 5}), in<3>(x, {1, 4, 2}), out<4>(x, {1, 2, 4, 3}),
                                       out<4>(x, k), out<4>(x, k), {}, out<1>(x, {64}));
            }),
            "[attention_backward] dv must have shape (1, 2, 2, 5), got (1, 2, 2, 3)");
  const auto with = [&](AttentionOptions options) {
    return message([&] {
      (void)attention_forward(in<4>(x, {1, 2, 4, 3}), in<4>(x, k), in<4>(x, v), {}, {}, options,
                              out<4>(x, {1, 2, 4, 5}), {}, out<3>(x, {1, 4, 2}), out<1>(x, {64}));
    });
  };
  EXPECT_EQ(with({1.f, -1}), "[attention_forward] window must be 0, for none, or more, got -1");
  EXPECT_EQ(with({NAN}), "[attention_forward] scale must be finite, got nan");
  EXPECT_EQ(with({-INFINITY}), "[attention_forward] scale must be finite, got -inf");
}

}  // namespace
}  // namespace attnedit::kernels
