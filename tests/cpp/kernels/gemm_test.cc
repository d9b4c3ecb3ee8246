#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include "support/factors.h"
#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

// sum_k op(A)_ik op(B)_kj, the only product that the tests trust.
std::vector<double> product(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                            const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<double> c(m * n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) {
      const double a_il = transpose_a ? a[l * m + i] : a[i * k + l];
      for (int64_t j = 0; j < n; ++j) c[i * n + j] += a_il * double(transpose_b ? b[j * k + l] : b[l * n + j]);
    }
  return c;
}

struct Shape {
  int64_t N, I, O;
  DType dtype = DType::kFloat32;
};
class Gemm : public ::testing::TestWithParam<Shape> {};

TEST_P(Gemm, ForwardMatchesReference) {
  const auto [N, I, O, dtype] = GetParam();
  const auto x = normal(N * I, 1), bias = normal(O, 3);
  const Stored weight(dtype, normal(O * I, 2));
  for (const Compute compute : kComputes) {
    // A few rows are multiplied as they lie, in float32: the weight's bytes are the cost.
    const Compute used = N <= 8 ? Compute::kFloat32 : compute;
    const auto want = product(false, true, N, O, I, factors(used, x), factors(used, weight.numbers));
    on_every_isa([&, N = N, I = I, O = O] {
      std::vector<float> y(N * O, 7.f), scratch(gemm_workspace(N, I, O), NAN);
      const auto workspace = out<1>(scratch, {int64_t(scratch.size())});
      gemm_forward(in<2>(x, {N, I}), weight.view<2>({O, I}), {}, out<2>(y, {N, O}), workspace, compute)();
      expect_close(y, want, 1e-4, "y without bias");
      gemm_forward(in<2>(x, {N, I}), weight.view<2>({O, I}), in<1>(bias, {O}), out<2>(y, {N, O}), workspace, compute)();
      for (int64_t i = 0; i < N * O; ++i) y[i] -= bias[i % O];
      expect_close(y, want, 1e-4, "y - bias");
    });
  }
}

TEST_P(Gemm, BackwardMatchesReference) {
  const auto [N, I, O, dtype] = GetParam();
  const auto x = normal(N * I, 1), dy = normal(N * O, 4);
  const Stored weight(dtype, normal(O * I, 2));
  const auto want_dbias = product(false, false, 1, O, N, std::vector<float>(N, 1.f), dy);
  for (const Compute compute : kComputes) {
    const auto dy_used = factors(compute, dy);
    const auto want_dx = product(false, false, N, I, O, dy_used, factors(compute, weight.numbers));
    const auto want_dweight = product(true, false, O, I, N, dy_used, factors(compute, x));
    on_every_isa([&, N = N, I = I, O = O] {
      std::vector<float> dx(N * I, 7.f), dweight(O * I, 1.f), dbias(O, 1.f), scratch(gemm_workspace(N, I, O), NAN);
      const auto workspace = out<1>(scratch, {int64_t(scratch.size())});
      gemm_input_backward(in<2>(dy, {N, O}), weight.view<2>({O, I}), out<2>(dx, {N, I}), workspace, compute)();
      gemm_weight_backward(in<2>(dy, {N, O}), in<2>(x, {N, I}), out<2>(dweight, {O, I}), out<1>(dbias, {O}), workspace,
                           compute)();
      for (float& value : dweight) value -= 1;  // they accumulate
      for (float& value : dbias) value -= 1;
      expect_close(dx, want_dx, 1e-4, "dx");
      expect_close(dweight, want_dweight, 1e-4, "dweight");
      expect_close(dbias, want_dbias, 1e-4, "dbias");
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Gemm,
                         ::testing::Values(Shape{1, 1, 1}, Shape{2, 7, 3}, Shape{5, 123, 31}, Shape{1, 123, 67},
                                           Shape{3, 64, 257}, Shape{0, 4, 5}, Shape{3, 0, 5}, Shape{3, 4, 0},
                                           Shape{157, 131, 163}, Shape{521, 67, 129}, Shape{37, 1100, 1131},
                                           Shape{95, 700, 1060, DType::kBFloat16}, Shape{1, 7, 5, DType::kBFloat16},
                                           Shape{7, 131, 257, DType::kBFloat16}, Shape{2, 7, 5, DType::kFloat16},
                                           Shape{67, 131, 257, DType::kFloat16},
                                           Shape{150, 131, 257, DType::kBFloat16}));

TEST(Gemm, ProductsLargerThanAChunk) {  // of 1,024 rows, columns and depth
  const int64_t N = 37, I = 1031, O = 1100;
  const auto x = normal(N * I, 1, 0.1f), dy = normal(N * O, 2);
  const Stored weight(DType::kBFloat16, normal(O * I, 3));
  std::vector<float> y(N * O), dx(N * I), dweight(O * I), scratch(gemm_workspace(N, I, O), NAN);
  const auto workspace = out<1>(scratch, {int64_t(scratch.size())});
  gemm_forward(in<2>(x, {N, I}), weight.view<2>({O, I}), {}, out<2>(y, {N, O}), workspace)();
  gemm_input_backward(in<2>(dy, {N, O}), weight.view<2>({O, I}), out<2>(dx, {N, I}), workspace)();
  gemm_weight_backward(in<2>(dy, {N, O}), in<2>(x, {N, I}), out<2>(dweight, {O, I}), {}, workspace)();
  expect_close(y, product(false, true, N, O, I, x, weight.numbers), 1e-4, "y");
  expect_close(dx, product(false, false, N, I, O, dy, weight.numbers), 1e-4, "dx");
  expect_close(dweight, product(true, false, O, I, N, dy, x), 1e-4, "dweight");
}

std::vector<float> every_product(const std::vector<float>& x, const Stored& weight, const std::vector<float>& dy,
                                 int64_t N, Compute compute) {
  const int64_t I = x.size() / N, O = dy.size() / N;
  std::vector<float> y(N * O), dx(N * I), dweight(O * I), dbias(O), scratch(gemm_workspace(N, I, O));
  const auto workspace = out<1>(scratch, {int64_t(scratch.size())});
  gemm_forward(in<2>(x, {N, I}), weight.view<2>({O, I}), {}, out<2>(y, {N, O}), workspace, compute)();
  gemm_input_backward(in<2>(dy, {N, O}), weight.view<2>({O, I}), out<2>(dx, {N, I}), workspace, compute)();
  gemm_weight_backward(in<2>(dy, {N, O}), in<2>(x, {N, I}), out<2>(dweight, {O, I}), out<1>(dbias, {O}), workspace,
                       compute)();
  for (const auto* part : {&dx, &dweight, &dbias}) y.insert(y.end(), part->begin(), part->end());
  return y;
}

TEST(Gemm, SameBitsForAnyThreads) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16})
    for (const std::array<int64_t, 3> shape : {std::array<int64_t, 3>{300, 257, 600}, {70, 60, 90}, {1, 600, 1200}}) {
      const auto [N, I, O] = shape;
      const auto x = normal(N * I, 1), dy = normal(N * O, 3);
      const Stored weight(dtype, normal(O * I, 2));
      for (const Compute compute : kComputes)
        expect_same_bits_for_any_threads([&, N = N] { return every_product(x, weight, dy, N, compute); });
    }
}

TEST(Gemm, HonoursStridesScalesAndAddsUp) {
  const int64_t m = 43, n = 75, k = 40, lda = 49, ldb = 78, ldc = 81;
  for (const bool left_transposed : {false, true})
    for (const bool right_transposed : {false, true}) {
      const auto a = normal(std::max(m, k) * lda, 1), b = normal(std::max(n, k) * ldb, 2), before = normal(m * ldc, 3);
      on_every_isa([&] {
        auto c = before;
        std::vector<float> scratch(gemm_scratch(m, n, k), NAN);
        const LeftOperand left{a.data(), left_transposed ? 1 : lda, left_transposed ? lda : 1};
        const auto right =
            right_transposed ? RightOperand::transposed(b.data(), ldb) : RightOperand::plain(b.data(), ldb);
        gemm(m, n, k, 2, left, right, Compute::kFloat32, true, c.data(), ldc, scratch.data());
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < ldc; ++j) {
            double want = before[i * ldc + j];
            for (int64_t l = 0; l < k && j < n; ++l)
              want += 2.0 * a[left_transposed ? l * lda + i : i * lda + l] *
                      b[right_transposed ? j * ldb + l : l * ldb + j];
            ASSERT_NEAR(c[i * ldc + j], want, 1e-4) << i << " " << j;
          }
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

TEST(Gemm, AProductOfNothingIsZero) {
  for (Compute compute : kComputes) {
    std::vector<float> c(2 * 3, 7.f);
    packed_product(2, 2, 0, nullptr, nullptr, compute, true, c.data(), 3);
    EXPECT_EQ(c, std::vector<float>(6, 7.f));
    packed_product(2, 2, 0, nullptr, nullptr, compute, false, c.data(), 3);
    EXPECT_EQ(c, (std::vector<float>{0, 0, 7, 0, 0, 7}));
    gemm(2, 2, 0, 1, {nullptr, 1, 1}, RightOperand::plain(nullptr, 1), compute, false, c.data() + 1, 3, nullptr);
    EXPECT_EQ(c, (std::vector<float>{0, 0, 0, 0, 0, 0}));
  }
}

TEST(Gemm, ABiasAloneHasTheGradientThatItHasBesideAWeight) {
  constexpr int64_t kN = 37, kI = 3, kO = 21;
  const auto dy = normal(kN * kO, 1), x = normal(kN * kI, 2);
  std::vector<float> alone, beside, dw(kI * kO), scratch(gemm_workspace(kN, kI, kO));
  on_every_isa([&] {
    alone.assign(kO, 1.f), beside.assign(kO, 1.f);
    gemm_bias_backward(in<2>(dy, {kN, kO}), out<1>(alone, {kO}))();
    gemm_weight_backward(in<2>(dy, {kN, kO}), in<2>(x, {kN, kI}), out<2>(dw, {kO, kI}), out<1>(beside, {kO}),
                         out<1>(scratch, {int64_t(scratch.size())}))();
    EXPECT_EQ(alone, beside);
    std::vector<double> want(kO, 1.0);  // it accumulates
    for (int64_t i = 0; i < kN * kO; ++i) want[i % kO] += dy[i];
    expect_close(alone, want, 1e-5, "dbias");
  });
  expect_message(
      [&] {
        return gemm_bias_backward(in<2>(dy, {kN, kO}), out<1>(alone, {kO - 1}));
      },
      "[gemm_bias_backward] dbias must have shape (21,), got (20,)");
}

TEST(Gemm, NamesTheShapeItWanted) {
  std::vector<float> x(8), w(12), y(6), bias(3);
  const WeightView<2> weight{w.data(), DType::kFloat32, {3, 4}};
  expect_message(
      [&] {
        return gemm_forward(in<2>(x, {4, 2}), weight, {}, out<2>(y, {2, 3}), {});
      },
      "[gemm_forward] weight must have shape (3, 2), got (3, 4)");
  expect_message(
      [&] {
        return gemm_forward(in<2>(x, {2, 4}), weight, in<1>(x, {8}), out<2>(y, {2, 3}), {});
      },
      "[gemm_forward] bias must have shape (3,), got (8,)");
  expect_message(
      [&] {
        return gemm_forward(in<2>(x, {2, 4}), weight, {}, out<2>(y, {2, 3}), {});
      },
      ("[gemm_forward] workspace must have at least " + std::to_string(gemm_workspace(2, 4, 3)) + " floats, got 0")
          .c_str());
  expect_message(
      [&] {
        return gemm_input_backward(in<2>(y, {2, 3}), weight, out<2>(x, {4, 2}), {});
      },
      "[gemm_input_backward] dx must have shape (2, 4), got (4, 2)");
  expect_message(
      [&] {
        return gemm_weight_backward(in<2>(y, {2, 3}), in<2>(x, {2, 4}), out<2>(w, {4, 3}), {}, {});
      },
      "[gemm_weight_backward] dweight must have shape (3, 4), got (4, 3)");
}

}  // namespace
}  // namespace attnedit::kernels
