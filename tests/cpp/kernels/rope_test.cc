#include "kernels/rope.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Shape {
  int64_t B, T, H, K, P, offset, start;
  RopeLayout layout;
};

constexpr int64_t kSpareRows = 3;  // table rows behind the last one in use
int64_t table_rows(const Shape& s) { return s.start + s.T + kSpareRows; }

template <class T>
std::vector<T> reference(const std::vector<T>& x, const std::vector<float>& cos, const std::vector<float>& sin,
                         const Shape& s) {
  std::vector<T> y = x;
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t h = 0; h < s.H; ++h)
        for (int64_t i = 0; i < s.P / 2; ++i) {
          const bool half_split = s.layout == RopeLayout::kHalfSplit;
          const int64_t head = ((b * s.T + t) * s.H + h) * s.K + s.offset;
          const int64_t one = head + (half_split ? i : 2 * i), other = head + (half_split ? i + s.P / 2 : 2 * i + 1);
          const double c = cos[(s.start + t) * (s.P / 2) + i], w = sin[(s.start + t) * (s.P / 2) + i];
          y[one] = x[one] * c - x[other] * w;
          y[other] = x[other] * c + x[one] * w;
        }
  return y;
}

class Rope : public ::testing::TestWithParam<Shape> {
 protected:
  const Shape s = GetParam();
  const int64_t size = s.B * s.T * s.H * s.K, S = table_rows(s);
  const std::array<int64_t, 4> shape = {s.B, s.T, s.H, s.K};
  const std::vector<float> x = normal(size, 1), cos = normal(S * s.P / 2, 2), sin = normal(S * s.P / 2, 3);
  const View<const float, 2> cos_view = in<2>(cos, {S, s.P / 2}), sin_view = in<2>(sin, {S, s.P / 2});
};

TEST_P(Rope, ForwardMatchesReference) {
  const auto want = reference(lift<double>(x), cos, sin, s);
  on_every_isa([&] {
    std::vector<float> y(size);
    rope_forward(in<4>(x, shape), cos_view, sin_view, s.start, s.offset, s.layout, out<4>(y, shape))();
    expect_close(y, want, 1e-6, "y");
  });
}

TEST_P(Rope, BackwardMatchesComplexStep) {
  const auto dy = normal(size, 4);
  auto cx = lift<Complex>(x);
  const auto want = gradient(cx, [&] {
    const auto y = reference(cx, cos, sin, s);
    Complex sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += double(dy[i]) * y[i];
    return sum;
  });
  on_every_isa([&] {
    std::vector<float> dx(size, 7.f);
    rope_backward(in<4>(dy, shape), cos_view, sin_view, s.start, s.offset, s.layout, out<4>(dx, shape))();
    expect_close(dx, want, 1e-6, "dx");
  });
}

constexpr RopeLayout kHalves = RopeLayout::kHalfSplit, kPairs = RopeLayout::kInterleaved;
INSTANTIATE_TEST_SUITE_P(Shapes, Rope,
                         ::testing::Values(Shape{1, 1, 1, 2, 2, 0, 0, kHalves}, Shape{1, 1, 1, 2, 2, 0, 0, kPairs},
                                           Shape{2, 3, 2, 64, 64, 0, 5, kHalves}, Shape{2, 3, 2, 64, 64, 0, 5, kPairs},
                                           Shape{2, 5, 3, 29, 14, 8, 1, kHalves}, Shape{2, 5, 3, 29, 14, 8, 1, kPairs},
                                           Shape{1, 2, 1, 7, 0, 7, 0, kHalves}, Shape{2, 0, 3, 8, 4, 0, 1, kHalves},
                                           Shape{1, 3, 2, 107, 46, 61, 2, kPairs}));

TEST(Rope, SameBitsForAnyThreads) {
  const int64_t B = 3, T = 70, H = 7, K = 67, P = 46;
  const std::array<int64_t, 4> shape = {B, T, H, K};
  const auto x = normal(B * T * H * K, 1), cos = normal(T * P / 2, 2), sin = normal(T * P / 2, 3);
  for (RopeLayout layout : {kHalves, kPairs})
    expect_same_bits_for_any_threads([&] {
      std::vector<float> y(x.size()), dx(x.size());
      rope_forward(in<4>(x, shape), in<2>(cos, {T, P / 2}), in<2>(sin, {T, P / 2}), 0, 5, layout, out<4>(y, shape))();
      rope_backward(in<4>(x, shape), in<2>(cos, {T, P / 2}), in<2>(sin, {T, P / 2}), 0, 5, layout, out<4>(dx, shape))();
      y.insert(y.end(), dx.begin(), dx.end());
      return y;
    });
}

TEST(Rope, NamesWhatItWanted) {
  std::vector<float> x(2 * 3 * 8), table(4 * 2);
  const auto message = [&](std::array<int64_t, 2> sin_shape, int64_t start, int64_t offset,
                           std::array<int64_t, 4> y_shape) -> std::string {
    try {
      (void)rope_forward(in<4>(x, {1, 2, 3, 8}), in<2>(table, {4, 2}), in<2>(table, sin_shape), start, offset, kHalves,
                         out<4>(x, y_shape));
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message({4, 2}, 2, 4, {1, 2, 3, 8}), "nothing");
  EXPECT_EQ(message({4, 2}, 2, 4, {1, 2, 8, 3}), "[rope] y must have shape (1, 2, 3, 8), got (1, 2, 8, 3)");
  EXPECT_EQ(message({2, 4}, 2, 4, {1, 2, 3, 8}), "[rope] sin must have the shape of cos, (4, 2), got (2, 4)");
  EXPECT_EQ(message({4, 2}, 3, 4, {1, 2, 3, 8}), "[rope] start must be in [0, 2], for 2 of the 4 table rows, got 3");
  EXPECT_EQ(message({4, 2}, -1, 4, {1, 2, 3, 8}), "[rope] start must be in [0, 2], for 2 of the 4 table rows, got -1");
  EXPECT_EQ(message({4, 2}, 2, 5, {1, 2, 3, 8}), "[rope] offset must be in [0, 4], for 4 of a head's 8 dims, got 5");
}

}  // namespace
}  // namespace attnedit::kernels
