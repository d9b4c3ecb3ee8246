#include "kernels/fused_mse.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

constexpr float kEps = 1e-3f;  // large enough to be seen

// The sums over the rows: {error, teacher's energy}.
template <class T>
std::array<T, 2> energies(const std::vector<T>& student, const std::vector<float>& teacher,
                          const std::vector<float>& weights, int64_t D) {
  T error = 0, energy = 0;
  for (size_t i = 0; i < student.size(); ++i) {
    const double w = weights[i / D], t = teacher[i];
    error += w * (student[i] - t) * (student[i] - t);
    energy += w * t * t;
  }
  return {error, energy};
}

template <class T>
T squared_error(const std::vector<T>& student, const std::vector<float>& teacher, const std::vector<float>& weights,
                int64_t D) {
  const auto [error, energy] = energies(student, teacher, weights, D);
  return error / (energy + double(kEps));
}

template <class T>
T cosine(const std::vector<T>& student, const std::vector<float>& teacher, const std::vector<float>& weights,
         int64_t D) {
  T loss = 0;
  for (size_t n = 0; n < weights.size(); ++n) {
    T ss = 0, st = 0;
    double tt = 0;
    for (int64_t d = 0; d < D; ++d) {
      const T s = student[n * D + d];
      const double t = teacher[n * D + d];
      ss += s * s, st += s * t, tt += t * t;
    }
    const bool zero = std::real(ss) == 0 || tt == 0;
    loss += double(weights[n]) * (1.0 - (zero ? T(0) : st / std::sqrt(ss * tt)));
  }
  return loss;
}

struct Shape {
  int64_t N, D;
};

// Some rows masked, one of the teacher's and one of the student's zero.
class ActivationLoss : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    for (int64_t n = 0; n < N; ++n) weights[n] = n % 4 == 3 ? 0.f : 0.5f + 0.25f * static_cast<float>(n % 3);
    if (N > 2) std::fill_n(teacher.begin() + D, D, 0.f);
    if (N > 4) std::fill_n(student.begin() + 4 * D, D, 0.f);
  }
  // What masked rows hold must not matter.
  static std::vector<float> spoiled(std::vector<float> x, const std::vector<float>& weights, int64_t D) {
    for (size_t i = 0; i < x.size(); ++i)
      if (weights[i / D] == 0) x[i] = std::numeric_limits<float>::quiet_NaN();
    return x;
  }

  const int64_t N = GetParam().N, D = GetParam().D;
  std::vector<float> student = normal(N * D, 1), teacher = normal(N * D, 2, 2), weights = std::vector<float>(N);
};

TEST_P(ActivationLoss, SquaredErrorMatchesReference) {
  const auto want_energy = energies(lift<double>(student), teacher, weights, D);
  const double want = squared_error(lift<double>(student), teacher, weights, D);
  auto cs = lift<Complex>(student);
  const auto want_dstudent = gradient(cs, [&] { return squared_error(cs, teacher, weights, D); });
  const auto s = spoiled(student, weights, D), t = spoiled(teacher, weights, D);
  on_every_isa([&] {
    std::vector<float> loss = {7}, again = {7}, energy = {7, 7}, dstudent(N * D, 7.f);
    std::vector<float> scratch(fused_mse_workspace(N), 7.f);
    const auto scratch_view = out<1>(scratch, {fused_mse_workspace(N)});
    fused_mse(in<2>(s, {N, D}), in<2>(t, {N, D}), in<1>(weights, {N}), kEps, out<1>(loss, {1}), out<1>(energy, {2}),
              out<2>(dstudent, {N, D}), scratch_view)();
    fused_mse(in<2>(s, {N, D}), in<2>(t, {N, D}), in<1>(weights, {N}), kEps, out<1>(again, {1}), out<1>(energy, {2}),
              {}, scratch_view)();
    expect_close(loss, std::vector<double>{want}, 2e-6, "loss");
    expect_close(energy, std::vector<double>{want_energy[0], want_energy[1]}, 2e-6, "energy");
    // The gradient is of the size of 1 / energy: compared at the size of 1.
    auto scaled = dstudent;
    auto want_scaled = want_dstudent;
    const double size = want_energy[1] + kEps;
    for (size_t i = 0; i < scaled.size(); ++i) scaled[i] *= static_cast<float>(size), want_scaled[i] *= size;
    expect_close(scaled, want_scaled, 2e-6, "dstudent");
    EXPECT_EQ(loss, again);
  });
}

TEST_P(ActivationLoss, CosineMatchesReference) {
  const double want = cosine(lift<double>(student), teacher, weights, D);
  auto cs = lift<Complex>(student);
  auto want_dstudent = gradient(cs, [&] { return cosine(cs, teacher, weights, D); });
  if (N > 4) std::fill_n(want_dstudent.begin() + 4 * D, D, 0.);  // the zero row's, by definition
  const auto s = spoiled(student, weights, D), t = spoiled(teacher, weights, D);
  on_every_isa([&] {
    std::vector<float> loss = {7}, again = {7}, dstudent(N * D, 7.f), scratch(fused_mse_workspace(N), 7.f);
    const auto scratch_view = out<1>(scratch, {fused_mse_workspace(N)});
    cosine_loss(in<2>(s, {N, D}), in<2>(t, {N, D}), in<1>(weights, {N}), out<1>(loss, {1}), out<2>(dstudent, {N, D}),
                scratch_view)();
    cosine_loss(in<2>(s, {N, D}), in<2>(t, {N, D}), in<1>(weights, {N}), out<1>(again, {1}), {}, scratch_view)();
    expect_close(loss, std::vector<double>{want}, 2e-6, "loss");
    expect_close(dstudent, want_dstudent, 2e-6, "dstudent");
    EXPECT_EQ(loss, again);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, ActivationLoss,
                         ::testing::Values(Shape{0, 4}, Shape{1, 1}, Shape{2, 7}, Shape{5, 123}, Shape{13, 64}));

TEST(ActivationLoss, SameBitsForAnyThreads) {
  const int64_t N = 700, D = 211;
  const auto student = normal(N * D, 1), teacher = normal(N * D, 2), weights = normal(N, 3);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> all(2 * N * D + 4), scratch(fused_mse_workspace(N));
    float* rest = all.data() + 2 * N * D;
    const View<float, 1> scratch_view = out<1>(scratch, {fused_mse_workspace(N)});
    fused_mse(in<2>(student, {N, D}), in<2>(teacher, {N, D}), in<1>(weights, {N}), kEps, {rest, {1}}, {rest + 1, {2}},
              {all.data(), {N, D}}, scratch_view)();
    cosine_loss(in<2>(student, {N, D}), in<2>(teacher, {N, D}), in<1>(weights, {N}), {rest + 3, {1}},
                {all.data() + N * D, {N, D}}, scratch_view)();
    return all;
  });
}

TEST(ActivationLoss, NamesWhatItWanted) {
  std::vector<float> x(8), one(1), two(2), scratch(4);
  const auto message = [](const auto& call) -> std::string {
    try {
      (void)call();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing";
  };
  const auto mse = [&](std::array<int64_t, 2> teacher, std::array<int64_t, 1> weights, float eps,
                       std::array<int64_t, 1> energy, std::array<int64_t, 1> workspace) {
    return message([&] {
      return fused_mse(in<2>(x, {2, 4}), in<2>(x, teacher), in<1>(x, weights), eps, out<1>(one, {1}),
                       out<1>(two, energy), out<2>(x, {2, 4}), out<1>(scratch, workspace));
    });
  };
  EXPECT_EQ(mse({2, 4}, {2}, kEps, {2}, {4}), "nothing");
  EXPECT_EQ(mse({4, 2}, {2}, kEps, {2}, {4}), "[fused_mse] teacher must have shape (2, 4), got (4, 2)");
  EXPECT_EQ(mse({2, 4}, {4}, kEps, {2}, {4}), "[fused_mse] weights must have shape (2,), got (4,)");
  EXPECT_EQ(mse({2, 4}, {2}, 0, {2}, {4}), "[fused_mse] eps must be positive and finite, got 0");
  EXPECT_EQ(mse({2, 4}, {2}, NAN, {2}, {4}), "[fused_mse] eps must be positive and finite, got nan");
  EXPECT_EQ(mse({2, 4}, {2}, kEps, {1}, {4}), "[fused_mse] energy must have shape (2,), got (1,)");
  EXPECT_EQ(mse({2, 4}, {2}, kEps, {2}, {3}), "[fused_mse] workspace must have 4 floats or more, got 3");
  EXPECT_EQ(message([&] {
              return cosine_loss(in<2>(x, {2, 4}), in<2>(x, {2, 4}), in<1>(x, {2}), out<1>(one, {1}), out<2>(x, {1, 8}),
                                 out<1>(scratch, {4}));
            }),
            "[cosine_loss] dstudent must have shape (2, 4), got (1, 8)");
}

}  // namespace
}  // namespace attnedit::kernels
