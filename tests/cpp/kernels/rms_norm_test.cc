#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

// The definition, in any number type: the only other place that knows the formula.
template <class T>
std::vector<T> reference(const std::vector<T>& x, const std::vector<T>& weight, int64_t N, int64_t D, double eps) {
  std::vector<T> y(x.size());
  for (int64_t n = 0; n < N; ++n) {
    T sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += x[n * D + d] * x[n * D + d];
    const T rstd = 1.0 / std::sqrt(sum / double(D) + eps);
    for (int64_t d = 0; d < D; ++d) y[n * D + d] = x[n * D + d] * rstd * weight[d];
  }
  return y;
}

struct Shape {
  int64_t N, D;
};
class RmsNorm : public ::testing::TestWithParam<Shape> {};

TEST_P(RmsNorm, ForwardMatchesReference) {
  const auto [N, D] = GetParam();
  const auto x = normal(N * D, 1), weight = normal(D, 2);
  const auto want = reference(lift<double>(x), lift<double>(weight), N, D, 1e-6);
  on_every_isa([&, N = N, D = D] {
    std::vector<float> y(N * D), rstd(N);
    rms_norm_forward(in<2>(x, {N, D}), in<1>(weight, {D}), 1e-6f, out<2>(y, {N, D}), out<1>(rstd, {N}))();
    expect_close(y, want, 2e-6, "y");
  });
}

TEST_P(RmsNorm, BackwardMatchesComplexStep) {
  const auto [N, D] = GetParam();
  const auto x = normal(N * D, 1), weight = normal(D, 2), dy = normal(N * D, 3);
  auto cx = lift<Complex>(x), cw = lift<Complex>(weight);
  auto loss = [&, N = N, D = D] {
    const auto y = reference(cx, cw, N, D, 1e-6);
    Complex sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += double(dy[i]) * y[i];
    return sum;
  };
  const auto want_dx = gradient(cx, loss), want_dw = gradient(cw, loss);
  on_every_isa([&, N = N, D = D] {
    std::vector<float> y(N * D), rstd(N), dx(N * D, 7.f), dw(D, 1.f), scratch(rms_norm_workspace(N, D), 7.f);
    rms_norm_forward(in<2>(x, {N, D}), in<1>(weight, {D}), 1e-6f, out<2>(y, {N, D}), out<1>(rstd, {N}))();
    rms_norm_backward(in<2>(dy, {N, D}), in<2>(x, {N, D}), in<1>(weight, {D}), in<1>(rstd, {N}), out<2>(dx, {N, D}),
                      out<1>(dw, {D}), out<1>(scratch, {rms_norm_workspace(N, D)}))();
    for (float& value : dw) value -= 1;  // it accumulates
    expect_close(dx, want_dx, 2e-5, "dx");
    expect_close(dw, want_dw, 2e-5, "dweight");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNorm, ::testing::Values(Shape{1, 1}, Shape{2, 7}, Shape{33, 64}, Shape{5, 123}));

TEST(RmsNorm, SameBitsForAnyThreads) {
  const int64_t N = 700, D = 200;
  const auto x = normal(N * D, 1), weight = normal(D, 2), dy = normal(N * D, 3);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(N * D), rstd(N), dx(N * D), dw(D), scratch(rms_norm_workspace(N, D));
    rms_norm_forward(in<2>(x, {N, D}), in<1>(weight, {D}), 1e-6f, out<2>(y, {N, D}), out<1>(rstd, {N}))();
    rms_norm_backward(in<2>(dy, {N, D}), in<2>(x, {N, D}), in<1>(weight, {D}), in<1>(rstd, {N}), out<2>(dx, {N, D}),
                      out<1>(dw, {D}), out<1>(scratch, {rms_norm_workspace(N, D)}))();
    y.insert(y.end(), dx.begin(), dx.end());
    y.insert(y.end(), dw.begin(), dw.end());
    return y;
  });
}

TEST(RmsNorm, NamesTheShapeItWanted) {
  std::vector<float> x(8), weight(3), y(8), rstd(2);
  try {
    (void)rms_norm_forward(in<2>(x, {2, 4}), in<1>(weight, {3}), 1e-6f, out<2>(y, {2, 4}), out<1>(rstd, {2}));
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[rms_norm] weight must have shape (4,), got (3,)");
  }
  for (float eps : {-1e-6f, NAN, INFINITY})
    EXPECT_EQ(message([&] {
                (void)rms_norm_forward(in<2>(x, {2, 4}), in<1>(x, {4}), eps, out<2>(y, {2, 4}), out<1>(rstd, {2}));
              }).substr(0, 48),
              "[rms_norm] eps must be 0 or more and finite, got");
}

}  // namespace
}  // namespace attnedit::kernels
