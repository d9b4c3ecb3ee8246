#include "kernels/fused_kl.h"

#include <gtest/gtest.h>

#include <bit>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

template <class T>
std::vector<T> log_softmax(const T* hidden, const std::vector<T>& head, int64_t D, double temperature) {
  std::vector<T> z(head.size() / D);
  double peak = -1e300;
  for (size_t v = 0; v < z.size(); ++v) {
    for (int64_t d = 0; d < D; ++d) z[v] += hidden[d] * head[v * D + d];
    z[v] /= temperature;
    peak = std::max(peak, std::real(z[v]));
  }
  T sum = 0;
  for (const T& logit : z) sum += std::exp(logit - peak);
  const T log_sum = std::log(sum) + peak;
  for (T& logit : z) logit -= log_sum;
  return z;
}

// The definition, in any number type.
template <class T>
std::vector<T> reference(const std::vector<T>& student, const std::vector<T>& student_head,
                         const std::vector<T>& teacher, const std::vector<T>& teacher_head, int64_t D,
                         FusedKlOptions options) {
  std::vector<T> divergences(student.size() / D);
  const double tau = options.temperature;
  for (size_t n = 0; n < divergences.size(); ++n) {
    const auto log_q = log_softmax(&student[n * D], student_head, D, tau);
    const auto log_p = log_softmax(&teacher[n * D], teacher_head, D, tau);
    T sum = 0;
    for (size_t v = 0; v < log_q.size(); ++v) {
      const T q = std::exp(log_q[v]), p = std::exp(log_p[v]);
      const T log_m = std::log((p + q) / 2.0);
      if (options.divergence == Divergence::kForward) sum += p * (log_p[v] - log_q[v]);
      if (options.divergence == Divergence::kReverse) sum += q * (log_q[v] - log_p[v]);
      if (options.divergence == Divergence::kJsd) sum += (p * (log_p[v] - log_m) + q * (log_q[v] - log_m)) / 2.0;
    }
    divergences[n] = tau * tau * sum;
  }
  return divergences;
}

struct Case {
  int64_t N, D, V;
  Divergence divergence;
  float temperature;
  bool same_head;
};

struct Problem {
  int64_t N, D, V;
  FusedKlOptions options;
  std::vector<float> student, teacher, student_head, teacher_head, weights;
  bool same_head;

  explicit Problem(Case c, float scale = 1)
      : N(c.N),
        D(c.D),
        V(c.V),
        options{c.divergence, c.temperature},
        student(normal(N * D, 1, scale)),
        teacher(normal(N * D, 2, scale)),
        student_head(normal(V * D, 3)),
        teacher_head(c.same_head ? student_head : normal(V * D, 4)),
        weights(normal(N, 5)),
        same_head(c.same_head) {
    for (int64_t n = 2; n < N; n += 5) weights[n] = 0;  // masked
  }
  WeightView<2> student_view() const { return {student_head.data(), DType::kFloat32, {V, D}}; }
  WeightView<2> teacher_view() const {
    return same_head ? student_view() : WeightView<2>{teacher_head.data(), DType::kFloat32, {V, D}};
  }
  // The gradient by the student's head is that of the student's use of it, even where the teacher shares it.
  Complex loss(const std::vector<Complex>& hidden, const std::vector<Complex>& head) const {
    const auto each = reference(hidden, head, lift<Complex>(teacher), lift<Complex>(teacher_head), D, options);
    Complex sum = 0;
    for (int64_t n = 0; n < N; ++n) sum += double(weights[n]) * each[n];
    return sum;
  }
};

enum class Wanted { kLoss, kHidden, kBoth, kHead };

struct Answer {
  std::vector<float> loss, divergences, dstudent, dhead;

  Answer(const Problem& p, Wanted wanted) : Answer(p, wanted, p.student_view(), p.teacher_view()) {}
  Answer(const Problem& p, Wanted wanted, WeightView<2> student_head, WeightView<2> teacher_head)
      : loss(1, 7.f), divergences(p.N, 7.f), dstudent(p.N * p.D, NAN), dhead(p.V * p.D, 1.f) {
    std::vector<float> scratch(fused_kl_workspace(p.N, p.D, p.V, p.options), NAN);
    const bool hidden = wanted == Wanted::kHidden || wanted == Wanted::kBoth;
    const bool by_head = wanted == Wanted::kHead || wanted == Wanted::kBoth;
    fused_kl(in<2>(p.student, {p.N, p.D}), student_head, in<2>(p.teacher, {p.N, p.D}), teacher_head,
             in<1>(p.weights, {p.N}), p.options, out<1>(loss, {1}), out<1>(divergences, {p.N}),
             hidden ? out<2>(dstudent, {p.N, p.D}) : View<float, 2>{},
             by_head ? out<2>(dhead, {p.V, p.D}) : View<float, 2>{}, out<1>(scratch, {int64_t(scratch.size())}))();
    for (float& value : dhead) value -= 1;  // it accumulates
  }
};

std::vector<Case> every_divergence(std::vector<std::array<int64_t, 3>> shapes) {
  std::vector<Case> cases;
  for (const auto& [N, D, V] : shapes)
    for (Divergence divergence : {Divergence::kForward, Divergence::kReverse, Divergence::kJsd}) {
      cases.push_back({N, D, V, divergence, 1, true});
      cases.push_back({N, D, V, divergence, 2.5f, false});
    }
  return cases;
}

class FusedKl : public ::testing::TestWithParam<Case> {};

// Relative 2^-9 of both factors of every logit, and of the probabilities that weight the head.
constexpr std::pair<Compute, double> kTolerances[] = {{Compute::kFloat32, 5e-6}, {Compute::kBFloat16, 3e-2}};

TEST_P(FusedKl, ForwardMatchesReference) {
  Problem p(GetParam());
  const auto want = reference(lift<double>(p.student), lift<double>(p.student_head), lift<double>(p.teacher),
                              lift<double>(p.teacher_head), p.D, p.options);
  double want_loss = 0;
  for (int64_t n = 0; n < p.N; ++n) want_loss += p.weights[n] * want[n];
  on_every_isa([&] {
    for (const auto& [compute, tolerance] : kTolerances)
      for (Wanted wanted : {Wanted::kLoss, Wanted::kHidden, Wanted::kBoth}) {
        p.options.compute = compute;
        const Answer got(p, wanted);
        expect_close(got.divergences, want, tolerance, "divergences");
        expect_close(got.loss, std::vector<double>{want_loss}, tolerance * std::max<int64_t>(p.N, 1), "loss");
      }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FusedKl,
    ::testing::ValuesIn(
        every_divergence({{0, 3, 5}, {1, 1, 1}, {2, 7, 3}, {11, 16, 123}, {3, 5, 2049}, {530, 3, 37}, {5, 2, 6007}})));

class FusedKlBackward : public ::testing::TestWithParam<Case> {};

TEST_P(FusedKlBackward, MatchesComplexStep) {
  Problem p(GetParam());
  auto student = lift<Complex>(p.student), head = lift<Complex>(p.student_head);
  auto loss = [&] { return p.loss(student, head); };
  const auto want_dstudent = gradient(student, loss), want_dhead = gradient(head, loss);
  on_every_isa([&] {
    for (const auto& [compute, tolerance] : kTolerances) {
      p.options.compute = compute;
      const Answer both(p, Wanted::kBoth);
      expect_close(Answer(p, Wanted::kHidden).dstudent, want_dstudent, 2 * tolerance, "dstudent");
      expect_close(both.dstudent, want_dstudent, 2 * tolerance, "dstudent beside dhead");
      expect_close(both.dhead, want_dhead, 2 * tolerance, "dhead");
      expect_close(Answer(p, Wanted::kHead).dhead, want_dhead, 2 * tolerance, "dhead alone");
    }
    const Answer both(p, Wanted::kBoth);
    for (int64_t n = 2; n < p.N; n += 5)
      for (int64_t d = 0; d < p.D; ++d) EXPECT_EQ(both.dstudent[n * p.D + d], 0) << "masked token " << n;
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, FusedKlBackward,
                         ::testing::ValuesIn(every_divergence({{0, 3, 5}, {1, 1, 1}, {2, 7, 3}, {7, 5, 31}})));

// The whole complex step is quadratic in V: beyond one block and one tile of tokens, take a few entries.
class FusedKlBlocks : public ::testing::TestWithParam<Case> {};

TEST_P(FusedKlBlocks, MatchComplexStep) {
  const Problem p(GetParam(), 2);
  auto student = lift<Complex>(p.student), head = lift<Complex>(p.student_head);
  auto entry = [&](std::vector<Complex>& x, int64_t i) {
    x[i] += Complex(0, 1e-50);
    const double g = p.loss(student, head).imag() / 1e-50;
    x[i] = x[i].real();
    return g;
  };
  std::vector<std::array<double, 2>> of_student, of_head;
  for (int64_t k = 0; k < 3; ++k) {
    const int64_t i = k * (p.N * p.D - 1) / 2, j = k * (p.V * p.D - 1) / 2;
    of_student.push_back({double(i), entry(student, i)});
    of_head.push_back({double(j), entry(head, j)});
  }
  on_every_isa([&] {
    const Answer hidden(p, Wanted::kHidden), both(p, Wanted::kBoth);
    for (const auto& [i, g] : of_student) {
      EXPECT_NEAR(hidden.dstudent[int64_t(i)], g, 2e-5 * (1 + std::abs(g))) << i;
      EXPECT_NEAR(both.dstudent[int64_t(i)], g, 2e-5 * (1 + std::abs(g))) << i;
    }
    for (const auto& [j, g] : of_head) EXPECT_NEAR(both.dhead[int64_t(j)], g, 4e-5 * (1 + std::abs(g))) << j;
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, FusedKlBlocks, ::testing::ValuesIn(every_divergence({{6, 3, 4999}, {520, 2, 37}})));

TEST(FusedKl, ReadsABfloat16Head) {
  for (const Case c : {Case{9, 5, 67, Divergence::kForward, 1, true}, Case{4, 3, 4999, Divergence::kForward, 2, false},
                       Case{4, 3, 4999, Divergence::kJsd, 1, false}}) {
    Problem p(c);
    std::vector<uint16_t> stored[2];
    for (auto* head : {&p.student_head, &p.teacher_head})
      for (float& value : *head) {
        const uint32_t bits = std::bit_cast<uint32_t>(value);
        stored[head == &p.teacher_head].push_back(bits >> 16);
        value = std::bit_cast<float>(bits & 0xffff0000u);
      }
    const WeightView<2> student{stored[0].data(), DType::kBFloat16, {p.V, p.D}};
    const WeightView<2> teacher{stored[1].data(), DType::kBFloat16, {p.V, p.D}};
    for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
      const Answer want(p, wanted), got(p, wanted, student, c.same_head ? student : teacher);
      EXPECT_EQ(got.divergences, want.divergences);
      EXPECT_EQ(got.dstudent, want.dstudent);
      EXPECT_EQ(got.dhead, want.dhead);
    }
  }
}

TEST(FusedKl, EqualDistributionsGiveNothing) {
  for (const Case c : every_divergence({{5, 7, 300}, {5, 7, 5000}})) {
    Problem p(c);
    p.teacher = p.student;
    p.teacher_head = p.student_head;
    on_every_isa([&] {
      const Answer got(p, Wanted::kHidden);
      for (float value : got.divergences) EXPECT_NEAR(value, 0, 3e-6);
      for (float value : got.dstudent) EXPECT_NEAR(value, 0, 1e-5);
    });
  }
}

TEST(FusedKl, HugeLogitsStayFinite) {
  for (Case c : every_divergence({{6, 2, 40}, {6, 2, 4999}})) {
    c.temperature = 1;
    Problem p(c);
    p.student = {1e15f, 0, -1e15f, 0, 0, 0, 3e4f, 1, 100, -100, 0, 1e4f};
    p.teacher = {-1e15f, 0, -1e15f, 1, 1e20f, 0, 0, 1, 100, -100, 1e30f, 0};
    for (auto* head : {&p.student_head, &p.teacher_head})
      for (int64_t v = 0; v < p.V; ++v) (*head)[2 * v] = v % 2 ? 1e4f : -1e4f, (*head)[2 * v + 1] = v % 3 ? 0 : -1e4f;
    on_every_isa([&] {
      for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
        const Answer got(p, wanted);
        for (const auto* part : {&got.loss, &got.divergences, &got.dstudent, &got.dhead})
          for (float value : *part) ASSERT_TRUE(std::isfinite(value));
        EXPECT_NEAR(got.divergences[4], 0, 1e-5);
      }
    });
  }
}

TEST(FusedKl, SameBitsForAnyThreads) {
  for (const Case& c : every_divergence({{600, 33, 200}, {80, 33, 4200}}))
    for (Wanted wanted : {Wanted::kHidden, Wanted::kBoth}) {
      if (c.same_head || (wanted == Wanted::kHidden && c.divergence != Divergence::kForward)) continue;
      const Problem p(c, 0.3f);
      expect_same_bits_for_any_threads([&] {
        const Answer got(p, wanted);
        auto all = got.divergences;
        for (const auto* part : {&got.loss, &got.dhead}) all.insert(all.end(), part->begin(), part->end());
        all.insert(all.end(), got.dstudent.begin(), got.dstudent.end());
        return all;
      });
    }
}

template <class F>
void expect_message(const F& call, const std::string& message) {
  try {
    (void)call();
    FAIL() << message;
  } catch (const std::invalid_argument& e) {
    EXPECT_EQ(e.what(), message);
  }
}

TEST(FusedKl, NamesWhatItWanted) {
  std::vector<float> hidden(8), head(12), two(2), one(1), scratch(fused_kl_workspace(2, 4, 3, {}));
  const int64_t enough = scratch.size();
  auto call = [&](std::array<int64_t, 2> head_shape, std::array<int64_t, 2> teacher, float temperature,
                  int64_t floats) {
    const WeightView<2> student_head{head.data(), DType::kFloat32, {3, 4}};
    return fused_kl(in<2>(hidden, {2, 4}), student_head, in<2>(hidden, teacher),
                    {head.data(), DType::kFloat32, head_shape}, in<1>(two, {2}), {Divergence::kForward, temperature},
                    out<1>(one, {1}), out<1>(two, {2}), {}, {}, out<1>(scratch, {floats}));
  };
  expect_message(
      [&] {
        return call({4, 3}, {2, 4}, 1, enough);
      },
      "[fused_kl] teacher_head must have shape (3, 4), got (4, 3)");
  expect_message(
      [&] {
        return call({3, 4}, {1, 8}, 1, enough);
      },
      "[fused_kl] teacher must have shape (2, 4), got (1, 8)");
  expect_message(
      [&] {
        return call({3, 4}, {2, 4}, 0, enough);
      },
      "[fused_kl] temperature must be positive and at most 100, got 0");
  expect_message(
      [&] {
        return call({3, 4}, {2, 4}, 1, 5);
      },
      "[fused_kl] workspace must have at least " + std::to_string(enough) + " floats, got 5");
}

}  // namespace
}  // namespace attnedit::kernels
