#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

template <class T>
std::vector<T> reference(const std::vector<T>& gate, const std::vector<T>& up) {
  std::vector<T> y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  return y;
}

struct Shape {
  int64_t N, F;
};
class SwiGlu : public ::testing::TestWithParam<Shape> {};

TEST_P(SwiGlu, ForwardMatchesReference) {
  const auto [N, F] = GetParam();
  const auto gate = normal(N * F, 1, 3), up = normal(N * F, 2);
  const auto want = reference(lift<double>(gate), lift<double>(up));
  on_every_isa([&, N = N, F = F] {
    std::vector<float> y(N * F);
    swiglu_forward(in<2>(gate, {N, F}), in<2>(up, {N, F}), out<2>(y, {N, F}))();
    expect_close(y, want, 1e-6, "y");
  });
}

TEST_P(SwiGlu, BackwardMatchesComplexStep) {
  const auto [N, F] = GetParam();
  const auto gate = normal(N * F, 1, 3), up = normal(N * F, 2), dy = normal(N * F, 3);
  auto cg = lift<Complex>(gate), cu = lift<Complex>(up);
  // Elements never meet, so that one step along all of them gives every derivative.
  constexpr double h = 1e-50;
  const auto derivatives = [&](std::vector<Complex>& x) {
    for (Complex& value : x) value += Complex(0, h);
    std::vector<double> d;
    const auto y = reference(cg, cu);
    for (size_t i = 0; i < y.size(); ++i) d.push_back(dy[i] * y[i].imag() / h);
    for (Complex& value : x) value = value.real();
    return d;
  };
  const auto want_dgate = derivatives(cg), want_dup = derivatives(cu);
  on_every_isa([&, N = N, F = F] {
    std::vector<float> dgate(N * F, 7.f), dup(N * F, 7.f);
    swiglu_backward(in<2>(dy, {N, F}), in<2>(gate, {N, F}), in<2>(up, {N, F}), out<2>(dgate, {N, F}),
                    out<2>(dup, {N, F}))();
    expect_close(dgate, want_dgate, 2e-6, "dgate");
    expect_close(dup, want_dup, 2e-6, "dup");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwiGlu,
                         ::testing::Values(Shape{0, 8}, Shape{1, 1}, Shape{5, 123}, Shape{2, 64}, Shape{331, 211}));

TEST(SwiGlu, IsFiniteAtTheEnds) {
  const std::vector<float> gate = {-1e30f, -1000, -90, -80, 80, 90, 1000, 1e30f}, up(8, 1), dy(8, 1);
  on_every_isa([&] {
    std::vector<float> y(8), dgate(8), dup(8);
    swiglu_forward(in<2>(gate, {1, 8}), in<2>(up, {1, 8}), out<2>(y, {1, 8}))();
    swiglu_backward(in<2>(dy, {1, 8}), in<2>(gate, {1, 8}), in<2>(up, {1, 8}), out<2>(dgate, {1, 8}),
                    out<2>(dup, {1, 8}))();
    for (int i = 0; i < 8; ++i) {
      EXPECT_FLOAT_EQ(y[i] + 1, std::max(gate[i], 0.f) + 1);
      EXPECT_FLOAT_EQ(dgate[i] + 1, (gate[i] > 0) + 1.f);
      EXPECT_EQ(dup[i], y[i]);
    }
  });
}

TEST(SwiGlu, SameBitsForAnyThreads) {
  const int64_t N = 700, F = 211;
  const auto gate = normal(N * F, 1), up = normal(N * F, 2), dy = normal(N * F, 3);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(N * F), dgate(N * F), dup(N * F);
    swiglu_forward(in<2>(gate, {N, F}), in<2>(up, {N, F}), out<2>(y, {N, F}))();
    swiglu_backward(in<2>(dy, {N, F}), in<2>(gate, {N, F}), in<2>(up, {N, F}), out<2>(dgate, {N, F}),
                    out<2>(dup, {N, F}))();
    y.insert(y.end(), dgate.begin(), dgate.end());
    y.insert(y.end(), dup.begin(), dup.end());
    return y;
  });
}

TEST(SwiGlu, NamesTheShapeItWanted) {
  std::vector<float> x(8);
  try {
    (void)swiglu_forward(in<2>(x, {2, 4}), in<2>(x, {4, 2}), out<2>(x, {2, 4}));
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[swiglu] up must have shape (2, 4), got (4, 2)");
  }
  try {
    (void)swiglu_backward(in<2>(x, {2, 4}), in<2>(x, {2, 4}), in<2>(x, {2, 4}), out<2>(x, {2, 4}), out<2>(x, {8, 1}));
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[swiglu_backward] dup must have shape (2, 4), got (8, 1)");
  }
}

}  // namespace
}  // namespace attnedit::kernels
