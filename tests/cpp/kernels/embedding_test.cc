#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

template <class T>
std::vector<T> reference(const std::vector<int32_t>& tokens, const std::vector<T>& table, int64_t D) {
  std::vector<T> y;
  for (int32_t token : tokens) y.insert(y.end(), table.begin() + token * D, table.begin() + (token + 1) * D);
  return y;
}

std::vector<int32_t> random_tokens(int64_t N, int64_t V) {
  std::mt19937 rng(4);
  std::vector<int32_t> tokens(N);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % V);
  return tokens;
}

View<const int32_t, 1> view(const std::vector<int32_t>& tokens) {
  return {tokens.data(), {static_cast<int64_t>(tokens.size())}};
}

// The number that a stored pattern stands for, by its definition: (-1)^s 2^(e - bias) (1 + m / 2^mantissa).
double decode(uint16_t bits, int mantissa, int bias) {
  const int e = (bits & 0x7fff) >> mantissa, m = bits & ((1 << mantissa) - 1);
  const double magnitude =
      e ? std::ldexp(m + (1 << mantissa), e - bias - mantissa) : std::ldexp(m, 1 - bias - mantissa);
  return bits >> 15 ? -magnitude : magnitude;
}

struct Shape {
  int64_t N, V, D;
};
class Embedding : public ::testing::TestWithParam<Shape> {};

TEST_P(Embedding, ForwardCopiesRows) {
  const auto [N, V, D] = GetParam();
  const auto tokens = random_tokens(N, V);
  const auto table = normal(V * D, 1);
  on_every_isa([&, N = N, V = V, D = D] {
    std::vector<float> y(N * D);
    embedding_forward(view(tokens), {table.data(), DType::kFloat32, {V, D}}, out<2>(y, {N, D}))();
    EXPECT_EQ(y, reference(tokens, table, D));
  });
}

TEST_P(Embedding, ForwardWidensHalves) {
  const auto [N, V, D] = GetParam();
  const auto tokens = random_tokens(N, V);
  std::mt19937 rng(1);
  for (const auto& [dtype, mantissa, bias] : {std::tuple{DType::kBFloat16, 7, 127}, {DType::kFloat16, 10, 15}}) {
    const uint16_t infinity = 0x7fff >> mantissa << mantissa;
    std::vector<uint16_t> table(V * D);
    std::vector<float> values(V * D);
    for (size_t i = 0; i < table.size(); ++i) {
      do table[i] = static_cast<uint16_t>(rng());
      while ((table[i] & 0x7fff) >= infinity);
      values[i] = static_cast<float>(decode(table[i], mantissa, bias));
    }
    on_every_isa([&, N = N, V = V, D = D, dtype = dtype] {
      std::vector<float> y(N * D);
      embedding_forward(view(tokens), {table.data(), dtype, {V, D}}, out<2>(y, {N, D}))();
      EXPECT_EQ(y, reference(tokens, values, D));
    });
  }
}

TEST_P(Embedding, BackwardMatchesComplexStep) {
  const auto [N, V, D] = GetParam();
  const auto tokens = random_tokens(N, V);
  const auto table = normal(V * D, 1), dy = normal(N * D, 2);
  auto c_table = lift<Complex>(table);
  const auto want = gradient(c_table, [&, D = D] {
    const auto y = reference(tokens, c_table, D);
    Complex sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += double(dy[i]) * y[i];
    return sum;
  });
  on_every_isa([&, N = N, V = V, D = D] {
    std::vector<float> dtable(V * D, 1.f);
    embedding_backward(in<2>(dy, {N, D}), view(tokens), out<2>(dtable, {V, D}))();
    for (float& value : dtable) value -= 1;  // it accumulates
    expect_close(dtable, want, 1e-6, "dtable");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, Embedding,
                         ::testing::Values(Shape{0, 3, 4}, Shape{1, 1, 1}, Shape{5, 3, 123}, Shape{40, 11, 16}));

TEST(Embedding, SameBitsForAnyThreads) {
  const int64_t N = 1500, V = 13, D = 211;
  const auto tokens = random_tokens(N, V);
  const auto table = normal(V * D, 1), dy = normal(N * D, 2);
  expect_same_bits_for_any_threads([&] {
    std::vector<float> y(N * D), dtable(V * D);
    embedding_forward(view(tokens), {table.data(), DType::kFloat32, {V, D}}, out<2>(y, {N, D}))();
    embedding_backward(in<2>(dy, {N, D}), view(tokens), out<2>(dtable, {V, D}))();
    y.insert(y.end(), dtable.begin(), dtable.end());
    return y;
  });
}

TEST(Embedding, NamesTheTokenThatIsOutOfRange) {
  std::vector<float> x(12);
  for (int32_t bad : {-1, 3, 2000000000}) {
    const std::vector<int32_t> tokens = {0, 2, bad, 1};
    const std::string want = " tokens must be in [0, 3), the vocabulary, got " + std::to_string(bad) + " at position 2";
    try {
      (void)embedding_forward(view(tokens), {x.data(), DType::kFloat32, {3, 3}}, out<2>(x, {4, 3}));
      FAIL();
    } catch (const std::out_of_range& e) {
      EXPECT_EQ(e.what(), "[embedding]" + want);
    }
    try {
      (void)embedding_backward(in<2>(x, {4, 3}), view(tokens), out<2>(x, {3, 3}));
      FAIL();
    } catch (const std::out_of_range& e) {
      EXPECT_EQ(e.what(), "[embedding_backward]" + want);
    }
  }
}

TEST(Embedding, NamesTheShapeItWanted) {
  const std::vector<int32_t> tokens = {0, 2};
  std::vector<float> x(12);
  try {
    (void)embedding_forward(view(tokens), {x.data(), DType::kFloat32, {3, 4}}, out<2>(x, {2, 3}));
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[embedding] y must have shape (2, 4), got (2, 3)");
  }
}

}  // namespace
}  // namespace attnedit::kernels
