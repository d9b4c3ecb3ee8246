#include "kernels/mla_projection.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

constexpr float kNormEps = 1e-6f;

struct Shape {
  int64_t B, T, H, R, P, Kn, Kv, start;
};

template <class T>
struct Pair {
  std::vector<T> first, second;
};

// {latent, k_rope}
template <class T>
Pair<T> compress(const std::vector<T>& kv_a, const std::vector<T>& weight, const std::vector<float>& cos,
                 const std::vector<float>& sin, const Shape& s) {
  Pair<T> y{std::vector<T>(s.B * s.T * s.R), std::vector<T>(s.B * s.T * s.P)};
  for (int64_t n = 0; n < s.B * s.T; ++n) {
    const T* x = kv_a.data() + n * (s.R + s.P);
    T squares = 0;
    for (int64_t i = 0; i < s.R; ++i) squares += x[i] * x[i];
    for (int64_t i = 0; i < s.R; ++i)
      y.first[n * s.R + i] = x[i] / std::sqrt(squares / double(s.R) + double(kNormEps)) * weight[i];
    for (int64_t i = 0; i < s.P / 2; ++i) {
      const int64_t angle = (s.start + n % s.T) * (s.P / 2) + i;
      const double c = cos[angle], w = sin[angle];
      const T a = x[s.R + 2 * i], b = x[s.R + 2 * i + 1];
      y.second[n * s.P + 2 * i] = a * c - b * w;
      y.second[n * s.P + 2 * i + 1] = b * c + a * w;
    }
  }
  return y;
}

// {k, v}
template <class T>
Pair<T> expand(const std::vector<T>& kv, const std::vector<T>& k_rope, const Shape& s) {
  Pair<T> y;
  for (int64_t nh = 0; nh < s.B * s.T * s.H; ++nh) {
    const auto head = kv.begin() + nh * (s.Kn + s.Kv), rotary = k_rope.begin() + nh / s.H * s.P;
    y.first.insert(y.first.end(), head, head + s.Kn);
    y.first.insert(y.first.end(), rotary, rotary + s.P);
    y.second.insert(y.second.end(), head + s.Kn, head + s.Kn + s.Kv);
  }
  return y;
}

Complex weighted(const std::vector<float>& weights, const std::vector<Complex>& x) {
  Complex sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += double(weights[i]) * x[i];
  return sum;
}

class MlaProjection : public ::testing::TestWithParam<Shape> {
 protected:
  const Shape s = GetParam();
  const int64_t B = s.B, T = s.T, H = s.H, R = s.R, P = s.P, N = B * T, S = s.start + T + 3;
  const std::vector<float> kv_a = normal(N * (R + P), 1), weight = normal(R, 2), cos = normal(S * P / 2, 3),
                           sin = normal(S * P / 2, 4), kv = normal(N * H * (s.Kn + s.Kv), 5), k_rope = normal(N * P, 6);
  const View<const float, 3> kv_a_view = in<3>(kv_a, {B, T, R + P});
  const View<const float, 2> cos_view = in<2>(cos, {S, P / 2}), sin_view = in<2>(sin, {S, P / 2});
};

TEST_P(MlaProjection, CompressMatchesReference) {
  const auto want = compress(lift<double>(kv_a), lift<double>(weight), cos, sin, s);
  const auto dlatent = normal(N * R, 7), dk_rope = normal(N * P, 8);
  auto cx = lift<Complex>(kv_a), cw = lift<Complex>(weight);
  const auto loss = [&] {
    const auto y = compress(cx, cw, cos, sin, s);
    return weighted(dlatent, y.first) + weighted(dk_rope, y.second);
  };
  const auto want_dkv_a = gradient(cx, loss), want_dweight = gradient(cw, loss);
  on_every_isa([&] {
    std::vector<float> latent(N * R, 7.f), rstd(N), rotated(N * P, 7.f), dkv_a(N * (R + P), 7.f), dweight(R, 1.f),
        scratch(mla_compress_workspace(N, R), 7.f);
    mla_compress_forward(kv_a_view, in<1>(weight, {R}), kNormEps, cos_view, sin_view, s.start,
                         out<3>(latent, {B, T, R}), out<2>(rstd, {B, T}), out<3>(rotated, {B, T, P}))();
    expect_close(latent, want.first, 2e-6, "latent");
    expect_close(rotated, want.second, 1e-6, "k_rope");
    mla_compress_backward(in<3>(dlatent, {B, T, R}), in<3>(dk_rope, {B, T, P}), kv_a_view, in<1>(weight, {R}),
                          in<2>(rstd, {B, T}), cos_view, sin_view, s.start, out<3>(dkv_a, {B, T, R + P}),
                          out<1>(dweight, {R}), out<1>(scratch, {mla_compress_workspace(N, R)}))();
    for (float& value : dweight) value -= 1;  // it accumulates
    expect_close(dkv_a, want_dkv_a, 2e-5, "dkv_a");
    expect_close(dweight, want_dweight, 2e-5, "dweight");
    std::vector<float> again(N * (R + P));
    mla_compress_backward(in<3>(dlatent, {B, T, R}), in<3>(dk_rope, {B, T, P}), kv_a_view, in<1>(weight, {R}),
                          in<2>(rstd, {B, T}), cos_view, sin_view, s.start, out<3>(again, {B, T, R + P}), {}, {})();
    EXPECT_EQ(again, dkv_a);
  });
}

TEST_P(MlaProjection, ExpandMatchesReference) {
  const std::array<int64_t, 4> kv_shape = {B, T, H, s.Kn + s.Kv}, k_shape = {B, T, H, s.Kn + P},
                               v_shape = {B, T, H, s.Kv};
  const auto want = expand(kv, k_rope, s);
  const auto dk = normal(N * H * (s.Kn + P), 7), dv = normal(N * H * s.Kv, 8);
  auto c_kv = lift<Complex>(kv), c_rope = lift<Complex>(k_rope);
  const auto loss = [&] {
    const auto y = expand(c_kv, c_rope, s);
    return weighted(dk, y.first) + weighted(dv, y.second);
  };
  const auto want_dkv = gradient(c_kv, loss), want_dk_rope = gradient(c_rope, loss);
  on_every_isa([&] {
    std::vector<float> k(dk.size()), v(dv.size()), dkv(kv.size(), 7.f), dk_rope(N * P, 7.f);
    mla_expand_forward(in<4>(kv, kv_shape), in<3>(k_rope, {B, T, P}), out<4>(k, k_shape), out<4>(v, v_shape))();
    EXPECT_EQ(k, want.first);
    EXPECT_EQ(v, want.second);
    mla_expand_backward(in<4>(dk, k_shape), in<4>(dv, v_shape), out<4>(dkv, kv_shape), out<3>(dk_rope, {B, T, P}))();
    expect_close(dkv, want_dkv, 1e-6, "dkv");
    expect_close(dk_rope, want_dk_rope, 2e-6, "dk_rope");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaProjection,
                         ::testing::Values(Shape{1, 1, 1, 1, 2, 1, 1, 0}, Shape{2, 3, 2, 32, 16, 16, 16, 5},
                                           Shape{2, 3, 7, 29, 14, 11, 5, 1}, Shape{1, 2, 3, 23, 38, 0, 9, 0},
                                           Shape{1, 2, 3, 23, 0, 5, 9, 0}, Shape{2, 0, 3, 8, 4, 4, 4, 1}));

TEST(MlaProjection, SameBitsForAnyThreads) {
  const int64_t B = 3, T = 170, H = 3, R = 211, P = 46, Kn = 37, Kv = 41, N = B * T;
  const auto kv_a = normal(N * (R + P), 1), weight = normal(R, 2), cos = normal(T * P / 2, 3),
             sin = normal(T * P / 2, 4), kv = normal(N * H * (Kn + Kv), 5), dlatent = normal(N * R, 6),
             dk = normal(N * H * (Kn + P), 7), dv = normal(N * H * Kv, 8);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> latent(N * R), rstd(N), k_rope(N * P), k(dk.size()), v(dv.size()), dkv(kv.size()),
        dk_rope(N * P), dkv_a(kv_a.size()), dweight(R), scratch(mla_compress_workspace(N, R)), all;
    const auto cos_view = in<2>(cos, {T, P / 2}), sin_view = in<2>(sin, {T, P / 2});
    mla_compress_forward(in<3>(kv_a, {B, T, R + P}), in<1>(weight, {R}), kNormEps, cos_view, sin_view, 0,
                         out<3>(latent, {B, T, R}), out<2>(rstd, {B, T}), out<3>(k_rope, {B, T, P}))();
    mla_expand_forward(in<4>(kv, {B, T, H, Kn + Kv}), in<3>(k_rope, {B, T, P}), out<4>(k, {B, T, H, Kn + P}),
                       out<4>(v, {B, T, H, Kv}))();
    mla_expand_backward(in<4>(dk, {B, T, H, Kn + P}), in<4>(dv, {B, T, H, Kv}), out<4>(dkv, {B, T, H, Kn + Kv}),
                        out<3>(dk_rope, {B, T, P}))();
    mla_compress_backward(in<3>(dlatent, {B, T, R}), in<3>(dk_rope, {B, T, P}), in<3>(kv_a, {B, T, R + P}),
                          in<1>(weight, {R}), in<2>(rstd, {B, T}), cos_view, sin_view, 0, out<3>(dkv_a, {B, T, R + P}),
                          out<1>(dweight, {R}), out<1>(scratch, {mla_compress_workspace(N, R)}))();
    for (const auto* part : {&latent, &rstd, &k_rope, &k, &v, &dkv, &dk_rope, &dkv_a, &dweight})
      all.insert(all.end(), part->begin(), part->end());
    return all;
  });
}

TEST(MlaProjection, NamesWhatItWanted) {
  std::vector<float> x(200);
  const auto message = [](const auto& call) -> std::string {
    try {
      (void)call();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing";
  };
  const auto compress_with = [&](std::array<int64_t, 3> kv_a, int64_t start, std::array<int64_t, 3> latent) {
    return message([&] {
      return mla_compress_forward(in<3>(x, kv_a), in<1>(x, {5}), kNormEps, in<2>(x, {4, 2}), in<2>(x, {4, 2}), start,
                                  out<3>(x, latent), out<2>(x, {1, 3}), out<3>(x, {1, 3, 4}));
    });
  };
  EXPECT_EQ(compress_with({1, 3, 9}, 1, {1, 3, 5}), "nothing");
  EXPECT_EQ(compress_with({1, 3, 8}, 1, {1, 3, 5}), "[mla_compress] kv_a must have shape (1, 3, 9), got (1, 3, 8)");
  EXPECT_EQ(compress_with({1, 3, 9}, 1, {1, 3, 4}), "[mla_compress] latent must have shape (1, 3, 5), got (1, 3, 4)");
  for (float eps : {-1.f, NAN, INFINITY})
    EXPECT_EQ(message([&] {
                return mla_compress_forward(in<3>(x, {1, 3, 9}), in<1>(x, {5}), eps, in<2>(x, {4, 2}), in<2>(x, {4, 2}),
                                            1, out<3>(x, {1, 3, 5}), out<2>(x, {1, 3}), out<3>(x, {1, 3, 4}));
              }).substr(0, 52),
              "[mla_compress] eps must be 0 or more and finite, got");
  EXPECT_EQ(compress_with({1, 3, 9}, 2, {1, 3, 5}),
            "[mla_compress] start must be in [0, 1], for 3 of the 4 table rows, got 2");
  EXPECT_EQ(message([&] {
              return mla_expand_forward(in<4>(x, {1, 3, 2, 8}), in<3>(x, {1, 3, 4}), out<4>(x, {1, 3, 2, 8}),
                                        out<4>(x, {1, 3, 2, 3}));
            }),
            "[mla_expand] k must have shape (1, 3, 2, 9), got (1, 3, 2, 8)");
  EXPECT_EQ(message([&] {
              return mla_expand_backward(in<4>(x, {1, 3, 2, 8}), in<4>(x, {1, 3, 2, 9}), out<4>(x, {1, 3, 2, 8}),
                                         out<3>(x, {1, 3, 4}));
            }),
            "[mla_expand_backward] dv must have 8 columns or fewer, as dkv has, got 9");
}

}  // namespace
}  // namespace attnedit::kernels
