#include "runtime/parallel.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace attnedit {
namespace {

class Parallel : public ::testing::Test {
 protected:
  void TearDown() override { set_num_threads(before_); }
  const int before_ = num_threads();
};

TEST_F(Parallel, MoreThreadsThanAnyMachineHasAreRefused) {
  EXPECT_THROW(set_num_threads(0), std::invalid_argument);
  EXPECT_THROW(set_num_threads(kMostThreads + 1), std::invalid_argument);
  EXPECT_THROW(set_num_threads(int64_t{1} << 40), std::invalid_argument);
  EXPECT_EQ(num_threads(), before_);
}

TEST_F(Parallel, EveryItemRunsOnceByAWorkerOfTheBudget) {
  for (int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    for (int64_t n : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> seen(n);
      std::atomic<int> strangers{0};
      parallel_items(n, [&](int64_t i, int worker) {
        ++seen[i];
        strangers += worker < 0 || worker >= threads;
      });
      for (auto& count : seen) EXPECT_EQ(count, 1);
      EXPECT_EQ(strangers, 0);
    }
  }
}

TEST_F(Parallel, WorkersNeverShareAnIndexAtOnce) {
  set_num_threads(3);
  std::vector<std::atomic<int>> busy(3);
  std::atomic<int> clashes{0};
  for (int round = 0; round < 300; ++round)
    parallel_items(50, [&](int64_t, int worker) {
      clashes += busy[worker]++ > 0;
      --busy[worker];
    });
  EXPECT_EQ(clashes, 0);
}

TEST_F(Parallel, RangesCoverEverythingOnce) {
  for (int threads : {1, 2, 7}) {
    set_num_threads(threads);
    for (int64_t n : {0, 1, 6, 7, 8, 1001})
      for (int64_t grain : {1, 7, 5000}) {
        std::vector<std::atomic<int>> seen(n);
        parallel_for(n, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        const auto see = [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % 16, 0);  // a cache line
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        };
        parallel_numbers(n, see, grain);
        for (auto& count : seen) ASSERT_EQ(count, 2) << n << " by " << grain;
      }
  }
}

TEST_F(Parallel, RegionsInsideAndBesideRegionsRunAlone) {
  set_num_threads(2);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round)
        parallel_items(8, [&](int64_t, int) { parallel_items(4, [&](int64_t i, int) { sum += i; }); });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, int64_t{4} * 100 * 8 * 6);
}

TEST_F(Parallel, FlushesSubnormalsInsideOnly) {
  volatile float tiny = 1e-40f;
  set_num_threads(2);
  std::atomic<int> flushed{0};
  parallel_items(64, [&](int64_t, int) { flushed += tiny * 1.5f == 0; });
#if defined(__SSE2__)
  EXPECT_EQ(flushed, 64);
#endif
  EXPECT_NE(tiny * 1.5f, 0);
}

}  // namespace
}  // namespace attnedit
