#include "kernels/add.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

TEST(Add, AddsInPlaceToo) {
  for (int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{200001}}) {
    const auto a = normal(n, 1), b = normal(n, 2);
    std::vector<double> want(n);
    for (int64_t i = 0; i < n; ++i) want[i] = double(a[i]) + b[i];
    on_every_isa([&] {
      std::vector<float> y(n), in_place = a;
      add(in<1>(a, {n}), in<1>(b, {n}), out<1>(y, {n}))();
      add(in<1>(in_place, {n}), in<1>(b, {n}), out<1>(in_place, {n}))();
      expect_close(y, want, 1e-7, "y");
      EXPECT_EQ(y, in_place);
    });
  }
}

TEST(Add, FillsEverything) {
  std::vector<float> y(70001);
  fill(2.5f, out<1>(y, {70001}))();
  EXPECT_EQ(y, std::vector<float>(70001, 2.5f));
}

TEST(Add, NamesTheShapeItWanted) {
  std::vector<float> a(4), b(3), y(4);
  try {
    (void)add(in<1>(a, {4}), in<1>(b, {3}), out<1>(y, {4}));
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[add] b must have shape (4,), got (3,)");
  }
}

}  // namespace
}  // namespace attnedit::kernels
