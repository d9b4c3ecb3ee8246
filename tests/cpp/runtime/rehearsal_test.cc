#include "runtime/rehearsal.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "runtime/stream.h"

namespace attnedit {
namespace {

TEST(Rehearsal, NotesTasksAndRunsNone) {
  bool ran = false;
  start_rehearsal();
  current_stream().launch("work", Task([&] { ran = true; }).needing(7).moving(5));
  EXPECT_EQ(rehearsed(), 1u);
  const Rehearsal made = stop_rehearsal();
  synchronize_device();
  EXPECT_FALSE(ran);
  ASSERT_EQ(made.tasks.size(), 1u);
  EXPECT_EQ(made.tasks[0].name, "work");
  EXPECT_EQ(made.tasks[0].flops, 7);
  EXPECT_EQ(made.tasks[0].bytes, 5);
  current_stream().launch("work", Task([&] { ran = true; }));
  synchronize_device();
  EXPECT_TRUE(ran);
}

TEST(Rehearsal, CountsMemoryInAPoolOfItsOwn) {
  void* before = allocate(5 << 20);
  const MemoryStats outside = memory_stats();
  start_rehearsal();
  void* first = allocate(3 << 20);
  release(first);
  EXPECT_EQ(allocate(3 << 20), first);
  void* huge = allocate(size_t{8} << 30);  // counted, never touched
  release(before);                         // goes back to where it came from
  release(huge);
  const Rehearsal made = stop_rehearsal();
  EXPECT_EQ(made.memory.allocated_peak, (size_t{8} << 30) + (3 << 20));
  EXPECT_EQ(made.memory.allocations, 3u);
  EXPECT_EQ(memory_stats().allocated, outside.allocated - (5 << 20));
  EXPECT_EQ(memory_stats().reserved_peak, outside.reserved_peak);
  release(first);  // an array that outlives the rehearsal
  EXPECT_EQ(memory_stats().allocated, outside.allocated - (5 << 20));
}

TEST(Rehearsal, IsOnceAThread) {
  EXPECT_THROW(stop_rehearsal(), std::invalid_argument);
  start_rehearsal();
  EXPECT_THROW(start_rehearsal(), std::invalid_argument);
  EXPECT_TRUE(rehearsing());
  (void)stop_rehearsal();
  EXPECT_FALSE(rehearsing());
}

}  // namespace
}  // namespace attnedit
