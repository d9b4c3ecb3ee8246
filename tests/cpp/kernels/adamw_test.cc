#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/factors.h"
#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

constexpr AdamWOptions kOptions{.rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};

struct State {
  std::vector<double> parameter, m, v;
};

void reference_step(State& s, const std::vector<float>& gradient, double scale, const AdamWOptions& o) {
  for (size_t i = 0; i < gradient.size(); ++i) {
    const double g = gradient[i] * scale;
    s.m[i] = o.beta1 * s.m[i] + (1 - double(o.beta1)) * g;
    s.v[i] = o.beta2 * s.v[i] + (1 - double(o.beta2)) * g * g;
    const double m = s.m[i] / (1 - std::pow(double(o.beta1), double(o.step)));
    const double v = s.v[i] / (1 - std::pow(double(o.beta2), double(o.step)));
    s.parameter[i] -= o.rate * (m / (std::sqrt(v) + o.eps) + o.weight_decay * s.parameter[i]);
  }
}

class AdamW : public ::testing::TestWithParam<int64_t> {};

TEST_P(AdamW, FollowsTheReferenceForManySteps) {
  const int64_t n = GetParam();
  const auto start = normal(n, 1);
  on_every_isa([&] {
    std::vector<float> parameter = start, m(n), v(n);
    std::vector<uint16_t> rounded(n);
    State want{lift<double>(start), std::vector<double>(n), std::vector<double>(n)};
    for (int step = 1; step <= 12; ++step) {
      auto gradient = normal(n, 10 + step, 0.3f);
      const std::vector<float> scale = {0.25f * static_cast<float>(step)};
      AdamWOptions options = kOptions;
      options.step = step;
      reference_step(want, gradient, scale[0], options);
      adamw(out<1>(parameter, {n}), out<1>(gradient, {n}), out<1>(m, {n}), out<1>(v, {n}), in<1>(scale, {1}),
            {rounded.data(), {n}}, options)();
      EXPECT_EQ(gradient, std::vector<float>(n));
    }
    expect_close(m, want.m, 1e-6, "m");
    expect_close(v, want.v, 2e-6, "v");
    expect_close(parameter, want.parameter, 2e-6, "parameter");
    const auto nearest = factors(Compute::kBFloat16, parameter);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(uint32_t{rounded[i]} << 16, std::bit_cast<uint32_t>(nearest[i])) << i;
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, AdamW, ::testing::Values(0, 1, 7, 123, 1024, 70001));

TEST(AdamW, ReadsItsScaleWhenItRunsAndKeepsTheGradientIfAsked) {
  const std::vector<float> start = {1, 2, 3}, original = {0.5f, -0.5f, 2};
  std::vector<float> parameter = start, gradient = original, m(3), v(3), scale = {0};
  AdamWOptions options = kOptions;
  options.zero_gradient = false;
  const Task task = adamw(out<1>(parameter, {3}), out<1>(gradient, {3}), out<1>(m, {3}), out<1>(v, {3}),
                          in<1>(scale, {1}), {}, options);
  scale[0] = 0.5f;
  task();
  EXPECT_EQ(gradient, original);
  State want{lift<double>(start), {0, 0, 0}, {0, 0, 0}};
  reference_step(want, original, 0.5, options);
  expect_close(m, want.m, 1e-6, "m");
  expect_close(parameter, want.parameter, 1e-6, "parameter");

  parameter = start, m = v = {0, 0, 0};
  want = {lift<double>(start), {0, 0, 0}, {0, 0, 0}};
  reference_step(want, original, 1, options);
  adamw(out<1>(parameter, {3}), out<1>(gradient, {3}), out<1>(m, {3}), out<1>(v, {3}), {}, {}, options)();
  expect_close(m, want.m, 1e-6, "m without a scale");
}

TEST(AdamW, SameBitsForAnyThreads) {
  const int64_t n = 200003;
  const auto start = normal(n, 1);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> parameter = start, m(n), v(n), gradient = normal(n, 2), norm(1),
                       scratch(squared_norm_workspace(n));
    squared_norm(in<1>(gradient, {n}), out<1>(norm, {1}), out<1>(scratch, {squared_norm_workspace(n)}))();
    adamw(out<1>(parameter, {n}), out<1>(gradient, {n}), out<1>(m, {n}), out<1>(v, {n}), {}, {}, kOptions)();
    parameter.insert(parameter.end(), m.begin(), m.end());
    parameter.insert(parameter.end(), v.begin(), v.end());
    parameter.push_back(norm[0]);
    return parameter;
  });
}

TEST(SquaredNorm, Accumulates) {
  for (int64_t n : {0, 1, 7, 123, 32768, 200003}) {
    const auto gradient = normal(n, 1);
    double want = 2;
    for (float g : gradient) want += double(g) * g;
    on_every_isa([&] {
      std::vector<float> norm = {2}, scratch(squared_norm_workspace(n));
      squared_norm(in<1>(gradient, {n}), out<1>(norm, {1}), out<1>(scratch, {squared_norm_workspace(n)}))();
      expect_close(norm, std::vector<double>{want}, 1e-6, "squared_norm");
    });
  }
}

TEST(ClipScale, NeverGrowsTheGradient) {
  const auto scale_of = [](float squared_norm, float limit) {
    std::vector<float> norm = {squared_norm}, scale = {7};
    clip_scale(in<1>(norm, {1}), limit, out<1>(scale, {1}))();
    return scale[0];
  };
  EXPECT_EQ(scale_of(0, 1), 1);
  EXPECT_EQ(scale_of(0.25f, 1), 1);
  EXPECT_FLOAT_EQ(scale_of(16, 1), 0.25f);
  EXPECT_FLOAT_EQ(scale_of(16, 3), 0.75f);
  EXPECT_TRUE(std::isnan(scale_of(std::numeric_limits<float>::quiet_NaN(), 1)));
}

TEST(AdamW, NamesWhatItWanted) {
  std::vector<float> x(4), one(1);
  const auto message = [](const auto& call) -> std::string {
    try {
      (void)call();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing";
  };
  const auto four = out<1>(x, {4}), three = out<1>(x, {3});
  EXPECT_EQ(message([&] { return adamw(four, four, four, three, {}, {}, kOptions); }),
            "[adamw] v must have shape (4,), got (3,)");
  EXPECT_EQ(message([&] { return adamw(four, four, four, four, in<1>(x, {4}), {}, kOptions); }),
            "[adamw] gradient_scale must have shape (1,), got (4,)");
  EXPECT_EQ(message([&] { return adamw(four, four, four, four, {}, {}, {.rate = 1, .step = 0}); }),
            "[adamw] step must be 1 or more, got 0");
  std::vector<uint16_t> words(3);
  EXPECT_EQ(message([&] {
              return adamw(four, four, four, four, {}, {words.data(), {3}}, kOptions);
            }),
            "[adamw] rounded must have shape (4,), got (3,)");
  const auto with = [&](AdamWOptions options) {
    return message([&] { return adamw(four, four, four, four, {}, {}, options); });
  };
  const float nan = std::nanf("");
  EXPECT_EQ(with({.rate = 0, .beta1 = 0, .beta2 = 0, .eps = 0}), "nothing");
  EXPECT_EQ(with({.rate = nan}), "[adamw] rate must be 0 or more and finite, got nan");
  EXPECT_EQ(with({.rate = INFINITY}), "[adamw] rate must be 0 or more and finite, got inf");
  EXPECT_EQ(with({.rate = 1, .beta1 = 1}), "[adamw] beta1 must be at least 0 and below 1, got 1");
  EXPECT_EQ(with({.rate = 1, .beta2 = -0.5f}), "[adamw] beta2 must be at least 0 and below 1, got -0.5");
  EXPECT_EQ(with({.rate = 1, .eps = nan}), "[adamw] eps must be 0 or more and finite, got nan");
  EXPECT_EQ(with({.rate = 1, .weight_decay = -1}), "[adamw] weight_decay must be 0 or more and finite, got -1");
  EXPECT_EQ(message([&] { return squared_norm(in<1>(x, {4}), out<1>(one, {1}), out<1>(one, {1})); }),
            "[squared_norm] workspace must have 2 floats or more, got 1");
  EXPECT_EQ(message([&] { return clip_scale(in<1>(one, {1}), 0, out<1>(one, {1})); }),
            "[clip_scale] limit must be positive, got 0");
  EXPECT_EQ(message([&] { return clip_scale(in<1>(one, {1}), nan, out<1>(one, {1})); }),
            "[clip_scale] limit must be positive, got nan");
}

}  // namespace
}  // namespace attnedit::kernels
