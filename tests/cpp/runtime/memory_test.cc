#include "runtime/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <random>
#include <thread>
#include <vector>

#include "support/process.h"

namespace attnedit {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Each test finds and leaves an empty pool.
class Memory : public ::testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    set_memory_limit(kNoMemoryLimit);
    synchronize_device();
    empty_cache();
    reset_peak_memory_stats();
    ASSERT_EQ(memory_stats().allocated, 0u);
    ASSERT_EQ(memory_stats().reserved, 0u);
  }
};

// Under AddressSanitizer allocate waits for all streams (memory.cc, limit_access), and so for ever where a test holds
// one.
bool waits_for_streams() {
#ifdef __SANITIZE_ADDRESS__
  return true;
#else
  return false;
#endif
}

// Makes a stream the current one.
struct On {
  explicit On(std::shared_ptr<Stream> stream) { set_current_stream(std::move(stream)); }
  ~On() { set_current_stream(before); }
  std::shared_ptr<Stream> before = current_stream().shared_from_this();
};

TEST_F(Memory, IsAlignedAndWastesLittle) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{513}, 9 * kMiB / 8 + 1, 33 * kMiB + 5}) {
    void* block = allocate(bytes);
    EXPECT_EQ(reinterpret_cast<size_t>(block) % 64, 0u);
    std::memset(block, 1, bytes);
    EXPECT_EQ(memory_stats().allocated, (std::max<size_t>(bytes, 1) + 511) / 512 * 512);
    EXPECT_LE(memory_stats().reserved, bytes + bytes / 8 + 512);
    release(block);
    empty_cache();
  }
}

TEST_F(Memory, CountsCurrentAndPeak) {
  void* a = allocate(2 * kMiB);
  void* b = allocate(kMiB);
  release(a);
  EXPECT_EQ(memory_stats().allocated, kMiB);
  EXPECT_EQ(memory_stats().allocated_peak, 3 * kMiB);
  EXPECT_EQ(memory_stats().reserved, 3 * kMiB);
  reset_peak_memory_stats();
  EXPECT_EQ(memory_stats().allocated_peak, kMiB);
  const uint64_t before = memory_stats().allocations;
  release(allocate(5));
  EXPECT_EQ(memory_stats().allocations, before + 1);
  release(b);
  empty_cache();
  EXPECT_EQ(memory_stats().reserved, 0u);
  release(b);  // no block any more
}

TEST_F(Memory, IsReusedAtOnceOnTheSameStreamOnly) {
  if (waits_for_streams()) GTEST_SKIP() << "allocate waits for the stream that is held here";
  auto first = std::make_shared<Stream>(), second = std::make_shared<Stream>();
  std::promise<void> gate;
  On on(first);
  void* block = allocate(kMiB);
  first->launch("gate", [&] { gate.get_future().wait(); });
  release(block);
  void* other;
  {
    On on_second(second);
    other = allocate(kMiB);
    EXPECT_NE(other, block);
  }
  EXPECT_EQ(allocate(kMiB), block);
  release(block);
  gate.set_value();
  first->synchronize();
  On on_second(second);
  EXPECT_EQ(allocate(kMiB), block);  // the first stream has passed it
  release(block);
  release(other);
}

TEST_F(Memory, RecordedStreamIsWaitedFor) {
  if (waits_for_streams()) GTEST_SKIP() << "allocate waits for the stream that is held here";
  auto first = std::make_shared<Stream>(), second = std::make_shared<Stream>();
  std::promise<void> gate;
  On on(first);
  void* block = allocate(kMiB);
  record_stream(block, *second);
  second->launch("gate", [&] { gate.get_future().wait(); });
  release(block);
  void* other = allocate(kMiB);
  EXPECT_NE(other, block);
  release(other);
  gate.set_value();
  second->synchronize();
  void* a = allocate(kMiB);
  void* b = allocate(kMiB);
  EXPECT_TRUE(a == block || b == block);
  release(a);
  release(b);
  EXPECT_THROW(record_stream(block, *second), std::invalid_argument);
}

TEST_F(Memory, LimitRaisesAndIsRecoveredFrom) {
  set_memory_limit(8 * kMiB);
  void* block = allocate(6 * kMiB);
  const uint64_t before = memory_stats().out_of_memory;
  try {
    allocate(4 * kMiB);
    FAIL();
  } catch (const std::bad_alloc& e) {
    EXPECT_STREQ(e.what(), "[memory] device 0 is out of memory: needed 4.0 MiB, allowed 8.0 MiB, in use 6.0 MiB");
  }
  EXPECT_EQ(memory_stats().out_of_memory, before + 1);
  EXPECT_EQ(memory_stats().allocated, 6 * kMiB);
  release(block);
  release(allocate(4 * kMiB));  // what was kept makes room
  EXPECT_LE(memory_stats().reserved, 8 * kMiB);
}

TEST_F(Memory, LimitWaitsForKeptBlocksThatWorkStillUses) {
  set_memory_limit(8 * kMiB);
  void* block = allocate(6 * kMiB);
  current_stream().launch("slow", [block] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::memset(block, 1, 6 * kMiB);
  });
  release(block);
  release(allocate(4 * kMiB));
}

TEST_F(Memory, MoreThanTheMachineHasRaises) {
  EXPECT_THROW(allocate(size_t{1} << 55), OutOfMemory);
  EXPECT_THROW(allocate(~size_t{0}), OutOfMemory);
}

TEST_F(Memory, BlocksOfForgottenSizesGoBack) {
  for (size_t i = 1; i <= 400; ++i) release(allocate(i * kMiB));  // one size after the other, as a growing cache does
  EXPECT_LE(memory_stats().reserved_peak, 400 * kMiB * 5 / 4 + 96 * kMiB);
}

TEST_F(Memory, FreshBlocksArePoisonedInOrder) {
  testing::in_process_with({{"ATTNEDIT_POISON", "1"}}, [] {
    float* block = static_cast<float*>(allocate(1000 * sizeof(float)));
    float seen = 0;
    current_stream().launch("fill", [&] { std::fill_n(block, 1000, 2.f); });
    current_stream().launch("read", [&, block] { seen = block[999]; });
    release(block);
    EXPECT_EQ(allocate(1000 * sizeof(float)), block);  // queued work still reads the old values
    current_stream().synchronize();
    EXPECT_EQ(seen, 2.f);
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(std::isnan(block[i]));
  });
}

TEST_F(Memory, ManyThreadsAndStreams) {
  auto work = [](unsigned seed) {
    std::mt19937 rng(seed);
    std::vector<std::pair<int*, int>> held;
    for (int i = 0; i < 2000; ++i) {
      const int n = 1 + rng() % 5000, value = rng();
      int* block = static_cast<int*>(allocate(n * sizeof(int)));
      current_stream().launch("fill", [=] { std::fill_n(block, n, value); });
      current_stream().launch("check", [=] {
        if (std::count(block, block + n, value) != n) throw std::logic_error("somebody else wrote to the block");
      });
      held.emplace_back(block, n);
      if (held.size() > 5 || rng() % 2) {
        std::swap(held[rng() % held.size()], held.back());
        release(held.back().first);
        held.pop_back();
      }
    }
    for (auto [block, n] : held) release(block);
    current_stream().synchronize();
  };
  std::vector<std::future<void>> threads;
  for (unsigned t = 0; t < 3; ++t) threads.push_back(std::async(std::launch::async, work, t));
  for (auto& thread : threads) thread.get();
}

}  // namespace
}  // namespace attnedit
