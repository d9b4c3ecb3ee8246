#include "kernels/grouped_gemm.h"

#include <gtest/gtest.h>

#include <numeric>

#include "support/factors.h"
#include "support/oracle.h"
#include "support/stored.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Shape {
  std::vector<int32_t> rows;  // of every expert
  int64_t I, O;
  DType dtype = DType::kFloat32;
};

// y[n] = W_e x[n]
template <class T>
std::vector<T> grouped(const std::vector<T>& x, const std::vector<int32_t>& rows,
                       const std::vector<std::vector<float>>& weights, int64_t I, int64_t O) {
  std::vector<T> y;
  int64_t n = 0;
  for (size_t e = 0; e < rows.size(); ++e)
    for (int32_t row = 0; row < rows[e]; ++row, ++n)
      for (int64_t o = 0; o < O; ++o) {
        T sum = 0;
        for (int64_t i = 0; i < I; ++i) sum += x[n * I + i] * double(weights[e][o * I + i]);
        y.push_back(sum);
      }
  return y;
}

class GroupedGemm : public ::testing::TestWithParam<Shape> {
 protected:
  const std::vector<int32_t> rows = GetParam().rows;
  const int64_t I = GetParam().I, O = GetParam().O, N = std::accumulate(rows.begin(), rows.end(), int64_t{0});
  std::vector<int32_t> offsets = {0};
  std::vector<Stored> stored;
  std::vector<WeightView<2>> weights;
  std::vector<std::vector<float>> numbers;
  const std::vector<float> x = normal(N * I, 1), dy = normal(N * O, 2);

  void SetUp() override {
    for (size_t e = 0; e < rows.size(); ++e) {
      offsets.push_back(offsets.back() + rows[e]);
      stored.emplace_back(GetParam().dtype, normal(O * I, 10 + e));
    }
    for (const Stored& weight : stored) {
      weights.push_back(weight.view<2>({O, I}));
      numbers.push_back(weight.numbers);
    }
  }
  View<const int32_t, 1> offsets_view() const { return {offsets.data(), {int64_t(offsets.size())}}; }
  std::vector<float> forward(Compute compute) const {
    std::vector<float> y(N * O, 7.f), scratch(grouped_gemm_workspace(I, O), NAN);
    grouped_gemm_forward(in<2>(x, {N, I}), offsets_view(), weights, out<2>(y, {N, O}),
                         out<1>(scratch, {int64_t(scratch.size())}), compute)();
    return y;
  }
  std::vector<float> backward(Compute compute, bool accumulate, float before) const {
    std::vector<float> dx(N * I, before), scratch(grouped_gemm_workspace(I, O), NAN);
    grouped_gemm_input_backward(in<2>(dy, {N, O}), offsets_view(), weights, accumulate, out<2>(dx, {N, I}),
                                out<1>(scratch, {int64_t(scratch.size())}), compute)();
    return dx;
  }
};

TEST_P(GroupedGemm, ForwardMatchesReference) {
  for (const Compute compute : kComputes) {
    // A few rows are multiplied as they lie, in float32: the weight's bytes are the cost.
    const auto used = [&](int32_t count) { return count <= 8 ? Compute::kFloat32 : compute; };
    std::vector<float> factors_x;
    std::vector<std::vector<float>> factors_w;
    for (size_t e = 0; e < rows.size(); ++e) {
      const auto part = factors(used(rows[e]), {x.begin() + offsets[e] * I, x.begin() + offsets[e + 1] * I});
      factors_x.insert(factors_x.end(), part.begin(), part.end());
      factors_w.push_back(factors(used(rows[e]), numbers[e]));
    }
    const auto want = grouped(lift<double>(factors_x), rows, factors_w, I, O);
    on_every_isa([&] { expect_close(forward(compute), want, 1e-4, "y"); });
  }
}

// The transposed product; its own oracle is the complex step, where the shape is small.
TEST_P(GroupedGemm, BackwardMatchesReference) {
  for (const Compute compute : kComputes) {
    const auto d = factors(compute, dy);
    std::vector<std::vector<float>> factors_w;
    for (const auto& weight : numbers) factors_w.push_back(factors(compute, weight));
    std::vector<double> want;
    int64_t n = 0;
    for (size_t e = 0; e < rows.size(); ++e)
      for (int32_t row = 0; row < rows[e]; ++row, ++n)
        for (int64_t i = 0; i < I; ++i) {
          double sum = 0;
          for (int64_t o = 0; o < O; ++o) sum += double(d[n * O + o]) * double(factors_w[e][o * I + i]);
          want.push_back(sum);
        }
    if (N * I * O <= 3000) {
      auto cx = lift<Complex>(x);
      const auto gradients = gradient(cx, [&] {
        const auto y = grouped(cx, rows, factors_w, I, O);
        Complex loss = 0;
        for (size_t k = 0; k < y.size(); ++k) loss += double(d[k]) * y[k];
        return loss;
      });
      for (size_t k = 0; k < want.size(); ++k) ASSERT_NEAR(want[k], gradients[k], 1e-9);
    }
    on_every_isa([&] {
      expect_close(backward(compute, false, 7.f), want, 1e-4, "dx");
      auto dx = backward(compute, true, 1.f);
      for (float& value : dx) value -= 1;
      expect_close(dx, want, 1e-4, "dx, added");
    });
  }
}

TEST_P(GroupedGemm, SameBitsForAnyThreads) {
  for (const Compute compute : kComputes)
    expect_same_bits_for_any_threads([&] {
      auto all = forward(compute);
      const auto dx = backward(compute, false, 0.f);
      all.insert(all.end(), dx.begin(), dx.end());
      return all;
    });
}

// Experts with no row, one, few, an odd number, more than a register tile's; a width beyond one block of columns.
INSTANTIATE_TEST_SUITE_P(Shapes, GroupedGemm,
                         ::testing::Values(Shape{{1}, 1, 1}, Shape{{2, 0, 3}, 7, 5}, Shape{{0, 0}, 4, 3},
                                           Shape{{3, 1, 2}, 5, 7, DType::kBFloat16},
                                           Shape{{2, 2}, 9, 6, DType::kFloat16}, Shape{{13, 33, 0, 8, 9, 70}, 67, 131},
                                           Shape{{33, 0, 17, 31}, 131, 67, DType::kBFloat16},
                                           Shape{{1, 40, 5}, 520, 530}, Shape{{16, 33, 64}, 272, 288, DType::kBFloat16},
                                           Shape{{35, 3}, 96, 64, DType::kFloat16}, Shape{{1030, 2}, 40, 24}));

TEST(GroupedGemmArguments, NamesWhatItWanted) {
  std::vector<float> x(8), y(6), w(12), scratch(grouped_gemm_workspace(4, 3));
  const WeightView<2> weight{w.data(), DType::kFloat32, {3, 4}}, other{w.data(), DType::kFloat32, {4, 3}};
  const auto workspace = out<1>(scratch, {int64_t(scratch.size())});
  const auto said = [&](std::vector<int32_t> offsets, std::vector<WeightView<2>> weights, std::array<int64_t, 2> shape,
                        View<float, 1> room) {
    return message([&] {
      grouped_gemm_forward(in<2>(x, {2, 4}), {offsets.data(), {int64_t(offsets.size())}}, std::move(weights),
                           out<2>(y, shape), room)();
    });
  };
  EXPECT_EQ(said({0, 2}, {weight}, {2, 3}, workspace), "nothing was raised");
  EXPECT_EQ(said({0, 2}, {}, {2, 3}, workspace), "[grouped_gemm] weights must be of one expert at least, got none");
  EXPECT_EQ(said({0, 2}, {weight, weight}, {2, 3}, workspace), "[grouped_gemm] offsets must have shape (3,), got (2,)");
  EXPECT_EQ(said({0, 1, 2}, {weight, other}, {2, 3}, workspace),
            "[grouped_gemm] weights must have one shape (3, 4), expert 1 has (4, 3)");
  EXPECT_EQ(said({0, 2}, {weight}, {3, 2}, workspace), "[grouped_gemm] y must have shape (2, 3), got (3, 2)");
  EXPECT_EQ(said({0, 2}, {other}, {2, 4}, workspace), "[grouped_gemm] x must have shape (2, 3), got (2, 4)");
  EXPECT_EQ(said({0, 2}, {weight}, {2, 3}, {}), "[grouped_gemm] workspace must have at least " +
                                                    std::to_string(grouped_gemm_workspace(4, 3)) + " floats, got 0");
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{0, 3}, {1, 2}})
    EXPECT_EQ(said(wrong, {weight}, {2, 3}, workspace),
              "[grouped_gemm] offsets must ascend from 0 to the number of rows, 2");
  EXPECT_EQ(said({0, 3, 2}, {weight, weight}, {2, 3}, workspace),
            "[grouped_gemm] offsets must ascend from 0 to the number of rows, 2");
}

}  // namespace
}  // namespace attnedit::kernels
