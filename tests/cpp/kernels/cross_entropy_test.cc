#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <bit>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

// The definition, in any number type. The peak is taken off by its real part only, so that it stays analytic.
template <class T>
std::vector<T> reference(const std::vector<T>& hidden, const std::vector<T>& head, const std::vector<int32_t>& labels,
                         int64_t D) {
  const int64_t V = head.size() / D;
  std::vector<T> nll(labels.size()), z(V);
  for (size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] < 0) continue;
    double peak = -1e300;
    for (int64_t v = 0; v < V; ++v) {
      z[v] = 0;
      for (int64_t d = 0; d < D; ++d) z[v] += hidden[n * D + d] * head[v * D + d];
      peak = std::max(peak, std::real(z[v]));
    }
    T sum = 0;
    for (const T& logit : z) sum += std::exp(logit - peak);
    nll[n] = std::log(sum) + peak - z[labels[n]];
  }
  return nll;
}

struct Case {
  int64_t N, D, V;
};

struct Problem {
  int64_t N, D, V;
  std::vector<float> hidden, head, weights;
  std::vector<int32_t> labels;

  explicit Problem(Case c, float scale = 1)
      : N(c.N), D(c.D), V(c.V), hidden(normal(N * D, 1, scale)), head(normal(V * D, 2)), weights(normal(N, 3)) {
    for (int64_t n = 0; n < N; ++n) labels.push_back(n % 5 == 3 ? -1 : int32_t((n * 7919 + V - 1) % V));
    if (N > 4) weights[4] = 0;
  }
  WeightView<2> head_view() const { return {head.data(), DType::kFloat32, {V, D}}; }
  std::vector<Complex> loss(const std::vector<Complex>& h, const std::vector<Complex>& w) const {
    Complex sum = 0;
    const auto nll = reference(h, w, labels, D);
    for (int64_t n = 0; n < N; ++n) sum += double(weights[n]) * nll[n];
    return {sum};
  }
};

enum class Wanted { kLoss, kHidden, kBoth, kHead };

struct Answer {
  std::vector<float> loss, nll, dhidden, dhead;
  std::vector<int32_t> argmax;

  Answer(const Problem& p, Wanted wanted, Compute compute = Compute::kFloat32)
      : Answer(p, wanted, p.head_view(), compute) {}
  Answer(const Problem& p, Wanted wanted, WeightView<2> head, Compute compute = Compute::kFloat32)
      : loss(1, 7.f), nll(p.N, 7.f), dhidden(p.N * p.D, 7.f), dhead(p.V * p.D, 1.f), argmax(p.N, -7) {
    std::vector<float> scratch(cross_entropy_workspace(p.N, p.D, p.V), NAN);
    const bool hidden = wanted == Wanted::kHidden || wanted == Wanted::kBoth;
    const bool by_head = wanted == Wanted::kHead || wanted == Wanted::kBoth;
    cross_entropy(
        in<2>(p.hidden, {p.N, p.D}), head, {p.labels.data(), {p.N}}, in<1>(p.weights, {p.N}), out<1>(loss, {1}),
        out<1>(nll, {p.N}), {argmax.data(), {p.N}}, hidden ? out<2>(dhidden, {p.N, p.D}) : View<float, 2>{},
        by_head ? out<2>(dhead, {p.V, p.D}) : View<float, 2>{}, out<1>(scratch, {int64_t(scratch.size())}), compute)();
    for (float& value : dhead) value -= 1;  // it accumulates
  }
};

class CrossEntropy : public ::testing::TestWithParam<Case> {};

TEST_P(CrossEntropy, ForwardMatchesReference) {
  const Problem p(GetParam());
  const auto want = reference(lift<double>(p.hidden), lift<double>(p.head), p.labels, p.D);
  double want_loss = 0;
  for (int64_t n = 0; n < p.N; ++n) want_loss += p.weights[n] * want[n];
  on_every_isa([&] {
    for (Wanted wanted : {Wanted::kLoss, Wanted::kHidden, Wanted::kBoth}) {
      expect_close(Answer(p, wanted, Compute::kBFloat16).nll, want, 2e-2, "nll");
      const Answer got(p, wanted);
      expect_close(got.nll, want, 4e-6, "nll");
      expect_close(got.loss, std::vector<double>{want_loss}, 4e-6 * std::max<int64_t>(p.N, 1), "loss");
      for (int64_t n = 0; n < p.N; ++n) {
        double best = -1e300;
        int64_t winner = 0;
        for (int64_t v = 0; v < p.V; ++v) {
          double z = 0;
          for (int64_t d = 0; d < p.D; ++d) z += double(p.hidden[n * p.D + d]) * p.head[v * p.D + d];
          if (z > best) best = z, winner = v;
        }
        EXPECT_EQ(got.argmax[n], winner) << "argmax[" << n << "]";
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CrossEntropy,
                         ::testing::Values(Case{0, 3, 5}, Case{1, 1, 1}, Case{2, 7, 3}, Case{7, 5, 31},
                                           Case{11, 16, 123}, Case{3, 5, 2049}, Case{530, 3, 37}, Case{5, 2, 6007}));

class CrossEntropyBackward : public ::testing::TestWithParam<Case> {};

TEST_P(CrossEntropyBackward, MatchesComplexStep) {
  const Problem p(GetParam());
  auto hidden = lift<Complex>(p.hidden), head = lift<Complex>(p.head);
  auto loss = [&] { return p.loss(hidden, head)[0]; };
  const auto want_dhidden = gradient(hidden, loss), want_dhead = gradient(head, loss);
  on_every_isa([&] {
    expect_close(Answer(p, Wanted::kHidden).dhidden, want_dhidden, 4e-6, "dhidden");
    expect_close(Answer(p, Wanted::kBoth).dhidden, want_dhidden, 4e-6, "dhidden");
    expect_close(Answer(p, Wanted::kBoth).dhead, want_dhead, 4e-6, "dhead");
    expect_close(Answer(p, Wanted::kHead).dhead, want_dhead, 4e-6, "dhead alone");
    // Relative 2^-9 of both factors of every logit, and of the probabilities that weight the head.
    expect_close(Answer(p, Wanted::kHidden, Compute::kBFloat16).dhidden, want_dhidden, 3e-2, "dhidden");
    expect_close(Answer(p, Wanted::kBoth, Compute::kBFloat16).dhead, want_dhead, 3e-2, "dhead");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CrossEntropyBackward,
                         ::testing::Values(Case{0, 3, 5}, Case{1, 1, 1}, Case{2, 7, 3}, Case{7, 5, 31},
                                           Case{9, 4, 67}));

// The whole complex step is quadratic in V: beyond one block and one tile of tokens, take a few entries.
TEST(CrossEntropy, SeveralBlocksMatchComplexStep) {
  for (const Case c : {Case{6, 3, 4999}, Case{520, 2, 2050}}) {
    const Problem p(c, 2);
    auto hidden = lift<Complex>(p.hidden), head = lift<Complex>(p.head);
    auto entry = [&](std::vector<Complex>& x, int64_t i) {
      x[i] += Complex(0, 1e-50);
      const double g = p.loss(hidden, head)[0].imag() / 1e-50;
      x[i] = x[i].real();
      return g;
    };
    std::vector<std::array<double, 3>> want;  // indices into dhidden and dhead alike
    for (int64_t k = 0; k < 5; ++k) {
      const int64_t i = k * (p.N * p.D - 1) / 4, j = k * (p.V * p.D - 1) / 4;
      want.push_back({double(i), entry(hidden, i), 0});
      want.push_back({double(j), entry(head, j), 1});
    }
    on_every_isa([&] {
      const Answer one_pass(p, Wanted::kHidden), two_passes(p, Wanted::kBoth);
      for (const auto& [index, g, of_head] : want) {
        const int64_t i = int64_t(index);
        if (of_head) {
          EXPECT_NEAR(two_passes.dhead[i], g, 2e-5 * (1 + std::abs(g)));
        } else {
          EXPECT_NEAR(one_pass.dhidden[i], g, 4e-6 * (1 + std::abs(g)));
          EXPECT_NEAR(two_passes.dhidden[i], g, 4e-6 * (1 + std::abs(g)));
        }
      }
    });
  }
}

TEST(CrossEntropy, ReadsABfloat16Head) {
  for (const Case c : {Case{9, 5, 67}, Case{4, 3, 4999}}) {
    Problem p(c);
    std::vector<uint16_t> stored;
    for (float& value : p.head) {
      const uint32_t bits = std::bit_cast<uint32_t>(value);
      stored.push_back(bits >> 16);
      value = std::bit_cast<float>(bits & 0xffff0000u);
    }
    const WeightView<2> head{stored.data(), DType::kBFloat16, {p.V, p.D}};
    for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
      const Answer want(p, wanted), got(p, wanted, head);
      EXPECT_EQ(got.nll, want.nll);
      EXPECT_EQ(got.dhidden, want.dhidden);
      EXPECT_EQ(got.dhead, want.dhead);
    }
  }
}

TEST(CrossEntropy, HugeAndEqualLogitsStayFinite) {
  for (const int64_t V : {40, 4999}) {
    Problem p({5, 2, V});
    p.hidden = {1e15f, 0, -1e15f, 0, 0, 0, 3e4f, 1, 100, -100};
    p.labels = {0, 1, 2, 3, -1};
    for (int64_t v = 0; v < V; ++v) p.head[2 * v] = v % 2 ? 1e4f : -1e4f, p.head[2 * v + 1] = 0;
    on_every_isa([&] {
      for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
        const Answer got(p, wanted);
        for (float value : got.nll) EXPECT_TRUE(std::isfinite(value));
        for (float value : got.dhidden) EXPECT_TRUE(std::isfinite(value));
        for (float value : got.dhead) EXPECT_TRUE(std::isfinite(value));
        EXPECT_EQ(got.argmax, (std::vector<int32_t>{1, 0, 0, 1, 1}));  // the smallest of equal ones
        EXPECT_NEAR(got.nll[2], std::log(double(V)), 1e-5);
        EXPECT_EQ(got.nll[4], 0);
        EXPECT_EQ(got.dhidden[8], 0);
      }
    });
  }
}

TEST(CrossEntropy, SameBitsForAnyThreads) {
  for (const Case c : {Case{1100, 33, 700}, Case{130, 40, 5003}})
    for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
      const Problem p(c, 0.3f);
      expect_same_bits_for_any_threads([&] {
        Answer got(p, wanted);
        got.nll.push_back(got.loss[0]);
        for (const auto* part : {&got.dhidden, &got.dhead}) got.nll.insert(got.nll.end(), part->begin(), part->end());
        return got.nll;
      });
    }
}

template <class F>
void expect_message(const F& call, const char* message) {
  try {
    (void)call();
    FAIL() << message;
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), message);
  }
}

TEST(CrossEntropy, NamesWhatItWanted) {
  std::vector<float> hidden(8), head(12), two(2), one(1), scratch(cross_entropy_workspace(2, 4, 3));
  std::vector<int32_t> labels{0, 3}, argmax(2);
  auto call = [&](std::array<int64_t, 2> head_shape, int64_t nll, int64_t floats) {
    return cross_entropy(in<2>(hidden, {2, 4}), {head.data(), DType::kFloat32, head_shape}, {labels.data(), {2}},
                         in<1>(two, {2}), out<1>(one, {1}), out<1>(two, {nll}), {argmax.data(), {2}}, {}, {},
                         out<1>(scratch, {floats}));
  };
  const int64_t enough = scratch.size();
  expect_message(
      [&] {
        return call({4, 3}, 2, enough);
      },
      "[cross_entropy] head must have shape (V, 4) with V > 0, got (4, 3)");
  expect_message([&] { return call({3, 4}, 1, enough); }, "[cross_entropy] nll must have shape (2,), got (1,)");
  expect_message([&] { return call({3, 4}, 2, enough); }, "[cross_entropy] labels must be in [0, 3) or -1, got 3 at 1");
  const std::string message =
      "[cross_entropy] workspace must have at least " + std::to_string(enough) + " floats, got 5";
  expect_message([&] { return call({3, 4}, 2, 5); }, message.c_str());
}

}  // namespace
}  // namespace attnedit::kernels
