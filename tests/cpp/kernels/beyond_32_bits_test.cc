// More than 2^31 numbers to an argument. Memory is one block of 4 MiB, seen over and over: what is written repeats, so
// a kernel's answer can be compared with its answer on the block alone, and an offset cut to 32 bits hits no memory.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/add.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"
#include "support/oracle.h"

namespace attnedit::kernels {
namespace {

using namespace attnedit::testing;

constexpr int64_t kBlock = 1 << 20, kTimes = 2049;  // floats; 2^31 and a block more

class Repeated {
 public:
  explicit Repeated(unsigned seed) : Repeated(normal(kBlock, seed)) {}
  Repeated() : Repeated(std::vector<float>(kBlock, 7.f)) {}
  explicit Repeated(const std::vector<float>& block) {
    const size_t bytes = kBlock * sizeof(float);
    const int file = memfd_create("block", 0);
    EXPECT_EQ(ftruncate(file, bytes), 0);
    void* all = mmap(nullptr, bytes * kTimes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) throw std::runtime_error("no address space");
    data = static_cast<float*>(all);
    for (int64_t i = 0; i < kTimes; ++i)
      if (mmap(data + i * kBlock, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
        throw std::runtime_error("no mapping");
    close(file);
    std::copy(block.begin(), block.end(), data);
  }
  ~Repeated() { munmap(data, kBlock * kTimes * sizeof(float)); }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  template <int R>
  View<float, R> view(std::array<int64_t, R> shape) const {
    return {data, shape};
  }
  std::vector<float> block() const { return {data, data + kBlock}; }
  float* data;
};

constexpr int64_t kRows = 1024, kWidth = kBlock / kRows;

TEST(Beyond32Bits, RowsByRows) {
  const Repeated a(1), b(2), y;
  const auto weight = normal(kWidth, 3);
  std::vector<float> rstd(kRows * kTimes);
  const auto answers = [&](int64_t times) {
    std::vector<std::vector<float>> found;
    const int64_t N = kRows * times;
    const auto rows = [&](const Repeated& x) { return x.view<2>({N, kWidth}); };
    const auto run = [&](const Task& task) {
      task();
      found.push_back(y.block());
    };
    run(add({a.data, {kBlock * times}}, {b.data, {kBlock * times}}, {y.data, {kBlock * times}}));
    run(swiglu_forward({a.data, {N, kWidth}}, {b.data, {N, kWidth}}, rows(y)));
    run(rms_norm_forward({a.data, {N, kWidth}}, in<1>(weight, {kWidth}), 1e-6f, rows(y), out<1>(rstd, {N})));
    EXPECT_EQ(rstd[N - 1], rstd[kRows - 1]);
    run(rms_norm_backward({b.data, {N, kWidth}}, {a.data, {N, kWidth}}, in<1>(weight, {kWidth}), {rstd.data(), {N}},
                          rows(y), {}, {}));
    return found;
  };
  const auto want = answers(1);
  EXPECT_EQ(answers(kTimes), want);
}

TEST(Beyond32Bits, Products) {
  const int64_t I = 2, N = kRows * kTimes;
  auto few = normal(kRows * I, 1);
  std::vector<float> x;
  for (int64_t i = 0; i < kTimes; ++i) x.insert(x.end(), few.begin(), few.end());
  const auto weight = normal(kWidth * I, 2);
  const Repeated y;
  std::vector<float> scratch(gemm_workspace(N, I, kWidth));
  const auto forward = [&](int64_t rows) {
    gemm_forward(in<2>(x, {rows, I}), {weight.data(), DType::kFloat32, {kWidth, I}}, {}, y.view<2>({rows, kWidth}),
                 out<1>(scratch, {int64_t(scratch.size())}))();
    return y.block();
  };
  const auto want = forward(kRows);
  EXPECT_EQ(forward(N), want);
}

// A window of one key: every query gets its own value.
TEST(Beyond32Bits, Attention) {
  const int64_t T = 64 * kTimes, H = 128, K = kBlock / 64 / H;
  const Repeated q(1), k(2), v(3), o;
  std::vector<float> lse(H * T), workspace(attention_forward_workspace(1, T, H, H, K, K));
  attention_forward({q.data, {1, T, H, K}}, {k.data, {1, T, H, K}}, {v.data, {1, T, H, K}}, {}, {}, {1, 1},
                    o.view<4>({1, T, H, K}), {}, out<3>(lse, {1, H, T}),
                    out<1>(workspace, {int64_t(workspace.size())}))();
  const auto got = o.block(), want = v.block();
  for (int64_t i = 0; i < kBlock; ++i) ASSERT_NEAR(got[i], want[i], 1e-6 * (1 + std::abs(want[i])));
}

}  // namespace
}  // namespace attnedit::kernels
