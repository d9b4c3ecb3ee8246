#include "kernels/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

struct Shape {
  int64_t N, E, k, D;
  bool normalize;
};

// The numbers of the k greatest, in descending order.
std::vector<int32_t> greatest(const float* row, int64_t E, int64_t k) {
  std::vector<int32_t> order(E);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
  order.resize(k);
  return order;
}

// The chosen experts' weights: softmax over all, then divided by their sum where they are normalised.
template <class T>
std::vector<T> route(const std::vector<T>& logits, const std::vector<int32_t>& chosen, const Shape& s) {
  std::vector<T> weights;
  for (int64_t t = 0; t < s.N; ++t) {
    T whole = 0, picked = 0;
    for (int64_t e = 0; e < s.E; ++e) whole += std::exp(logits[t * s.E + e]);
    for (int64_t j = 0; j < s.k; ++j) picked += std::exp(logits[t * s.E + chosen[t * s.k + j]]) / whole;
    for (int64_t j = 0; j < s.k; ++j) {
      const T p = std::exp(logits[t * s.E + chosen[t * s.k + j]]) / whole;
      weights.push_back(s.normalize ? p / picked : p);
    }
  }
  return weights;
}

// Rows in the order of the experts, and of the slots within one.
std::vector<int32_t> sorted_slots(const std::vector<int32_t>& chosen) {
  std::vector<int32_t> slots(chosen.size());
  std::iota(slots.begin(), slots.end(), 0);
  std::stable_sort(slots.begin(), slots.end(), [&](int32_t a, int32_t b) { return chosen[a] < chosen[b]; });
  return slots;
}

std::vector<int32_t> inverse(const std::vector<int32_t>& slots) {
  std::vector<int32_t> rows(slots.size());
  for (size_t r = 0; r < slots.size(); ++r) rows[slots[r]] = r;
  return rows;
}

template <int R = 1>
View<const int32_t, R> numbers(const std::vector<int32_t>& x, std::array<int64_t, R> shape) {
  return {x.data(), shape};
}

class Moe : public ::testing::TestWithParam<Shape> {
 protected:
  const Shape s = GetParam();
  const int64_t N = s.N, E = s.E, k = s.k, D = s.D, rows = N * k;
  const std::vector<float> logits = normal(N * E, 1, 3);
  std::vector<int32_t> chosen;

  void SetUp() override {
    for (int64_t t = 0; t < N; ++t)
      for (int32_t e : greatest(logits.data() + t * E, E, k)) chosen.push_back(e);
  }
};

TEST_P(Moe, RoutesLikeTheReference) {
  const auto want = route(lift<double>(logits), chosen, s);
  const auto slots = sorted_slots(chosen);
  on_every_isa([&] {
    std::vector<float> weights(rows, 7.f);
    std::vector<int32_t> got(rows, -1), offsets(E + 1, -1), got_slots(rows, -1), got_rows(rows, -1);
    moe_route_forward(
        in<2>(logits, {N, E}), s.normalize, out<2>(weights, {N, k}),
        {{got.data(), {N, k}}, {offsets.data(), {E + 1}}, {got_slots.data(), {rows}}, {got_rows.data(), {rows}}})();
    expect_close(weights, want, 2e-6, "weights");
    EXPECT_EQ(got, chosen);
    EXPECT_EQ(got_slots, slots);
    EXPECT_EQ(got_rows, inverse(slots));
    for (int64_t e = 0; e <= E; ++e)
      EXPECT_EQ(offsets[e], std::count_if(chosen.begin(), chosen.end(), [&](int32_t c) { return c < e; }));
  });
}

TEST_P(Moe, RouteBackwardMatchesComplexStep) {
  const auto dweights = normal(rows, 2);
  auto x = lift<Complex>(logits);
  const auto want = gradient(x, [&] {
    const auto weights = route(x, chosen, s);
    Complex loss = 0;
    for (size_t i = 0; i < weights.size(); ++i) loss += double(dweights[i]) * weights[i];
    return loss;
  });
  on_every_isa([&] {
    std::vector<float> dlogits(N * E, 7.f);
    moe_route_backward(in<2>(dweights, {N, k}), in<2>(logits, {N, E}), numbers<2>(chosen, {N, k}), s.normalize,
                       out<2>(dlogits, {N, E}))();
    expect_close(dlogits, want, 5e-6, "dlogits");
  });
}

// sum_j w_tj W h_tj over the slots, weighted before or behind the product: what combine and weigh_backward are for.
template <class T>
std::vector<T> combine(const std::vector<T>& x, const std::vector<int32_t>& rows_of, const std::vector<T>& weights,
                       const Shape& s) {
  std::vector<T> y(s.N * s.D);
  for (int64_t t = 0; t < s.N; ++t)
    for (int64_t j = 0; j < s.k; ++j)
      for (int64_t d = 0; d < s.D; ++d) y[t * s.D + d] += weights[t * s.k + j] * x[rows_of[t * s.k + j] * s.D + d];
  return y;
}

TEST_P(Moe, GathersCombinesAndGoesBack) {
  const auto slots = sorted_slots(chosen), rows_of = inverse(slots);
  const auto x = normal(N * D, 3), h = normal(rows * D, 4), weights = normal(rows, 5), dy = normal(N * D, 6);
  const auto want = combine(lift<double>(h), rows_of, lift<double>(weights), s);
  const auto plain = combine(lift<double>(h), rows_of, std::vector<double>(rows, 1.), s);
  auto ch = lift<Complex>(h), cw = lift<Complex>(weights);
  const auto loss = [&] {
    const auto y = combine(ch, rows_of, cw, s);
    Complex sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += double(dy[i]) * y[i];
    return sum;
  };
  const bool cheap = rows * rows * D * D < 200'000;
  const auto want_dh = cheap ? gradient(ch, loss) : std::vector<double>{},
             want_dw = cheap ? gradient(cw, loss) : want_dh;
  on_every_isa([&] {
    std::vector<float> gathered(rows * D, 7.f), y(N * D, 7.f), dweights(rows, 7.f);
    moe_gather(in<2>(x, {N, D}), numbers(slots, {rows}), out<2>(gathered, {rows, D}))();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < D; ++d) ASSERT_EQ(gathered[r * D + d], x[slots[r] / k * D + d]);
    moe_combine(in<2>(h, {rows, D}), numbers(rows_of, {rows}), in<2>(weights, {N, k}), out<2>(y, {N, D}))();
    expect_close(y, want, 2e-6, "y");
    moe_combine(in<2>(h, {rows, D}), numbers(rows_of, {rows}), {}, out<2>(y, {N, D}))();
    expect_close(y, plain, 2e-6, "y, all weights 1");
    if (!cheap) return;
    moe_gather(in<2>(dy, {N, D}), numbers(slots, {rows}), out<2>(gathered, {rows, D}))();
    moe_weigh_backward(in<2>(h, {rows, D}), in<2>(weights, {N, k}), numbers(slots, {rows}), out<2>(gathered, {rows, D}),
                       out<2>(dweights, {N, k}))();
    expect_close(gathered, want_dh, 2e-6, "dh");
    expect_close(dweights, want_dw, 1e-5, "dweights");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, Moe,
                         ::testing::Values(Shape{1, 1, 1, 1, true}, Shape{3, 4, 2, 5, true}, Shape{5, 4, 2, 3, false},
                                           Shape{7, 9, 9, 2, true}, Shape{6, 17, 3, 17, false}, Shape{0, 4, 2, 3, true},
                                           Shape{40, 128, 8, 33, true}, Shape{30, 37, 5, 64, false}));

TEST(MoeRouting, SameBitsForAnyThreads) {
  const int64_t N = 900, E = 60, k = 4, D = 70, rows = N * k;
  const auto logits = normal(N * E, 1, 3), x = normal(N * D, 2), dweights = normal(rows, 3);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> weights(rows), gathered(rows * D), y(N * D), dlogits(N * E), dw(rows), all;
    std::vector<int32_t> chosen(rows), offsets(E + 1), slots(rows), rows_of(rows);
    moe_route_forward(
        in<2>(logits, {N, E}), true, out<2>(weights, {N, k}),
        {{chosen.data(), {N, k}}, {offsets.data(), {E + 1}}, {slots.data(), {rows}}, {rows_of.data(), {rows}}})();
    moe_gather(in<2>(x, {N, D}), numbers(slots, {rows}), out<2>(gathered, {rows, D}))();
    moe_combine(in<2>(gathered, {rows, D}), numbers(rows_of, {rows}), in<2>(weights, {N, k}), out<2>(y, {N, D}))();
    moe_route_backward(in<2>(dweights, {N, k}), in<2>(logits, {N, E}), numbers<2>(chosen, {N, k}), true,
                       out<2>(dlogits, {N, E}))();
    const auto h = gathered;
    moe_weigh_backward(in<2>(h, {rows, D}), in<2>(weights, {N, k}), numbers(slots, {rows}), out<2>(gathered, {rows, D}),
                       out<2>(dw, {N, k}))();
    for (const auto* part : {&weights, &gathered, &y, &dlogits, &dw}) all.insert(all.end(), part->begin(), part->end());
    all.insert(all.end(), slots.begin(), slots.end());
    return all;
  });
}

std::vector<int32_t> chosen_of(const std::vector<float>& logits, int64_t k) {
  const int64_t E = logits.size();
  std::vector<float> weights(k);
  std::vector<int32_t> chosen(k), offsets(E + 1), slots(k), rows(k);
  moe_route_forward(in<2>(logits, {1, E}), true, out<2>(weights, {1, k}),
                    {{chosen.data(), {1, k}}, {offsets.data(), {E + 1}}, {slots.data(), {k}}, {rows.data(), {k}}})();
  return chosen;
}

TEST(MoeRouting, TakesTheLowerNumberAmongEquals) {
  EXPECT_EQ(chosen_of({1, 2, 2, 0, 2}, 2), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(chosen_of({0, 0, 0, 0}, 3), (std::vector<int32_t>{0, 1, 2}));
}

TEST(MoeRouting, ChoosesDifferentExpertsWhateverTheNumbers) {
  for (const std::vector<float>& logits :
       {std::vector<float>{NAN, NAN, NAN, NAN}, {1, NAN, 3, NAN}, {INFINITY, -INFINITY, INFINITY, NAN}}) {
    auto chosen = chosen_of(logits, 3);
    std::sort(chosen.begin(), chosen.end());
    EXPECT_EQ(std::unique(chosen.begin(), chosen.end()), chosen.end());
    EXPECT_TRUE(chosen.front() >= 0 && chosen.back() < 4);
  }
}

// As softmax and topk have it, but that the experts are different ones.
TEST(MoeRouting, ATokenWithANanWeighsNothingThatIsANumberAndLeavesItsNeighbours) {
  constexpr int64_t kTokens = 3, kExperts = 21, kMost = 4;
  for (int64_t k : {int64_t{1}, kMost})
    for (bool normalize : {false, true})
      for (int64_t at : {0, 5, 20}) {
        auto logits = normal(kTokens * kExperts, 1);
        const auto route = [&](std::vector<float>& weights, std::vector<int32_t>& chosen) {
          std::vector<int32_t> offsets(kExperts + 1), slots(kTokens * k), rows(kTokens * k);
          moe_route_forward(in<2>(logits, {kTokens, kExperts}), normalize, out<2>(weights, {kTokens, k}),
                            {{chosen.data(), {kTokens, k}},
                             {offsets.data(), {kExperts + 1}},
                             {slots.data(), {kTokens * k}},
                             {rows.data(), {kTokens * k}}})();
          EXPECT_EQ(offsets[kExperts], kTokens * k);
        };
        on_every_isa([&] {
          std::vector<float> well(kTokens * k), ill(kTokens * k);
          std::vector<int32_t> chosen(kTokens * k), chosen_ill(kTokens * k);
          logits[kExperts + at] = 0;
          route(well, chosen);
          logits[kExperts + at] = NAN;
          route(ill, chosen_ill);
          for (int64_t slot = 0; slot < kTokens * k; ++slot)
            if (slot / k == 1) {
              EXPECT_TRUE(std::isnan(ill[slot])) << ill[slot];
              EXPECT_TRUE(chosen_ill[slot] >= 0 && chosen_ill[slot] < kExperts) << chosen_ill[slot];
            } else {
              EXPECT_EQ(ill[slot], well[slot]);
              EXPECT_EQ(chosen_ill[slot], chosen[slot]);
            }
          EXPECT_EQ(std::set<int32_t>(chosen_ill.begin() + k, chosen_ill.begin() + 2 * k).size(), size_t(k));
        });
      }
}

TEST(MoeRouting, NamesWhatItWanted) {
  std::vector<float> x(12), y(12);
  std::vector<int32_t> far = {0, 1, 2, 4}, near = {0, 1, 2, 3};
  EXPECT_EQ(message([&] {
              (void)moe_route_forward(in<2>(x, {2, 3}), true, out<2>(y, {2, 4}), {});
            }),
            "[moe_route] weights must have from 1 to 3 columns, got 4");
  EXPECT_EQ(message([&] {
              (void)moe_route_forward(in<2>(x, {2, 0}), true, out<2>(y, {2, 4}), {});
            }),
            "[moe_route] logits must be of 1 expert or more, got (2, 0)");
  EXPECT_EQ(message([&] {
              (void)moe_gather(in<2>(x, {2, 3}), numbers(near, {3}), out<2>(y, {4, 3}));
            }),
            "[moe_gather] slots must have a multiple of 2 entries, got 3");
  EXPECT_EQ(message([&] {
              moe_gather(in<2>(x, {2, 3}), numbers(far, {4}), out<2>(y, {4, 3}))();
            }),
            "[moe_gather] slots must be in [0, 4), got 4");
  EXPECT_EQ(message([&] {
              moe_combine(in<2>(x, {4, 3}), numbers(far, {4}), {}, out<2>(y, {2, 3}))();
            }),
            "[moe_combine] rows must be in [0, 4), got 4");
  EXPECT_EQ(
      message([&] {
        (void)moe_route_backward(in<2>(x, {2, 2}), in<2>(x, {2, 3}), numbers<2>(near, {2, 2}), true, out<2>(y, {3, 2}));
      }),
      "[moe_route_backward] dlogits must have shape (2, 3), got (3, 2)");
}

}  // namespace
}  // namespace attnedit::kernels
