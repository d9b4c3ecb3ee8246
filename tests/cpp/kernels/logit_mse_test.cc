#include "kernels/logit_mse.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

// The definition, over logits.
template <class T>
T squared_error_of_logits(const std::vector<T>& student, const std::vector<float>& teacher,
                          const std::vector<float>& head, const std::vector<float>& weights, int64_t D, int64_t V) {
  T loss = 0;
  for (size_t n = 0; n < weights.size(); ++n)
    for (int64_t v = 0; v < V; ++v) {
      T difference = 0;
      for (int64_t d = 0; d < D; ++d)
        difference += (student[n * D + d] - double(teacher[n * D + d])) * double(head[v * D + d]);
      loss += double(weights[n]) * difference * difference / double(V);
    }
  return loss;
}

struct Shape {
  int64_t N, D, V;
};
class LogitMse : public ::testing::TestWithParam<Shape> {};

TEST_P(LogitMse, MatchesTheDefinitionOverLogits) {
  const auto [N, D, V] = GetParam();
  const auto student = normal(N * D, 1), teacher = normal(N * D, 2);
  std::vector<float> weights(N);
  for (int64_t n = 0; n < N; ++n) weights[n] = n % 4 == 3 ? 0.f : 0.5f + 0.25f * static_cast<float>(n % 3);
  const auto spoiled = [&, D = D](std::vector<float> x) {  // what masked rows hold must not matter
    for (size_t i = 0; i < x.size(); ++i)
      if (weights[i / D] == 0) x[i] = std::numeric_limits<float>::quiet_NaN();
    return x;
  };
  const auto s = spoiled(student), t = spoiled(teacher);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const Stored head(dtype, normal(V * D, 3));
    const double want = squared_error_of_logits(lift<double>(student), teacher, head.numbers, weights, D, V);
    auto cs = lift<Complex>(student);
    const auto want_dstudent =
        gradient(cs, [&, D = D, V = V] { return squared_error_of_logits(cs, teacher, head.numbers, weights, D, V); });
    on_every_isa([&, N = N, D = D, V = V] {
      std::vector<float> g(D * D, 7.f), loss = {7}, again = {7}, dstudent(N * D, 7.f);
      std::vector<float> scratch(std::max(gram_workspace(V, D), logit_mse_workspace(N, D)), 7.f);
      const auto scratch_view = out<1>(scratch, {static_cast<int64_t>(scratch.size())});
      gram(head.view<2>({V, D}), out<2>(g, {D, D}), scratch_view)();
      const auto run = [&](std::vector<float>& to, View<float, 2> gradient) {
        logit_mse(in<2>(s, {N, D}), in<2>(t, {N, D}), in<2>(g, {D, D}), V, in<1>(weights, {N}), out<1>(to, {1}),
                  gradient, scratch_view)();
      };
      run(loss, out<2>(dstudent, {N, D}));
      run(again, {});
      expect_close(loss, std::vector<double>{want}, 2e-6, "loss");
      expect_close(dstudent, want_dstudent, 5e-6, "dstudent");
      EXPECT_EQ(loss, again);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LogitMse,
                         ::testing::Values(Shape{0, 4, 3}, Shape{1, 1, 1}, Shape{5, 7, 40}, Shape{2, 33, 2100},
                                           Shape{13, 64, 129}));

TEST(LogitMse, SameBitsForAnyThreads) {
  const int64_t N = 150, D = 131, V = 2500;
  const auto student = normal(N * D, 1), teacher = normal(N * D, 2), weights = normal(N, 3), head = normal(V * D, 4);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> all(D * D + N * D + 1), scratch(std::max(gram_workspace(V, D), logit_mse_workspace(N, D)));
    const View<float, 1> scratch_view = out<1>(scratch, {static_cast<int64_t>(scratch.size())});
    float* const g = all.data();
    gram({head.data(), DType::kFloat32, {V, D}}, {g, {D, D}}, scratch_view)();
    logit_mse(in<2>(student, {N, D}), in<2>(teacher, {N, D}), {g, {D, D}}, V, in<1>(weights, {N}),
              {g + D * D + N * D, {1}}, {g + D * D, {N, D}}, scratch_view)();
    return all;
  });
}

TEST(LogitMse, NamesWhatItWanted) {
  std::vector<float> x(2000), one(1);
  const auto made = [&](std::array<int64_t, 2> teacher, std::array<int64_t, 2> g, int64_t V, int64_t workspace) {
    return message([&] {
      (void)logit_mse(in<2>(x, {2, 4}), in<2>(x, teacher), in<2>(x, g), V, in<1>(x, {2}), out<1>(one, {1}), {},
                      out<1>(x, {workspace}));
    });
  };
  EXPECT_EQ(made({2, 4}, {4, 4}, 9, 2000), "nothing was raised");
  EXPECT_EQ(made({2, 5}, {4, 4}, 9, 2000), "[logit_mse] teacher must have shape (2, 4), got (2, 5)");
  EXPECT_EQ(made({2, 4}, {4, 5}, 9, 2000), "[logit_mse] gram must have shape (4, 4), got (4, 5)");
  EXPECT_EQ(made({2, 4}, {4, 4}, 0, 2000), "[logit_mse] vocabulary must be 1 or more, got 0");
  const std::string floats = std::to_string(logit_mse_workspace(2, 4));
  EXPECT_EQ(made({2, 4}, {4, 4}, 9, 3), "[logit_mse] workspace must have " + floats + " floats or more, got 3");
  EXPECT_EQ(message([&] {
              (void)gram({x.data(), DType::kFloat32, {5, 4}}, out<2>(x, {5, 4}), out<1>(x, {2000}));
            }),
            "[gram] gram must have shape (4, 4), got (5, 4)");
}

}  // namespace
}  // namespace attnedit::kernels
