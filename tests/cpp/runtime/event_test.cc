#include "runtime/event.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>

#include "support/process.h"

namespace attnedit {
namespace {

using std::chrono::milliseconds;

TEST(Event, IsDoneBeforeItsFirstRecord) {
  Event event;
  EXPECT_TRUE(event.query());
  event.synchronize();
  current_stream().wait(event);
  current_stream().synchronize();
}

TEST(Event, WaitBlocksTheStreamNotTheHost) {
  testing::in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    Stream first(0), second(1);  // of two devices, because the gate holds the cores of its own
    std::promise<void> gate;
    std::atomic<bool> wrote = false, saw = false, ran = false;
    first.launch("gate", [&] { gate.get_future().wait(); });
    first.launch("write", [&] { wrote = true; });
    Event event;
    event.record(first);
    second.wait(event);
    second.launch("read", [&] {
      saw = wrote.load();
      ran = true;
    });
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(ran || event.query() || second.query());
    gate.set_value();
    second.synchronize();
    EXPECT_TRUE(saw && ran && event.query());
  });
}

TEST(Event, WaitMeansTheLastRecordBeforeIt) {
  testing::in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    Stream first(0), second(1);
    std::promise<void> gate;
    Event event;
    event.record(first);
    second.wait(event);
    first.launch("gate", [&] { gate.get_future().wait(); });
    event.record(first);
    second.synchronize();  // would hang if the wait meant the second record
    EXPECT_FALSE(event.query());
    gate.set_value();
    event.synchronize();
  });
}

TEST(Event, LeavesAnIdleStreamWhenItWasTheLast) {
  Stream stream;
  for (int i = 0; i < 2000; ++i) {
    Event event;
    stream.launch("work", [] {});
    event.record(stream);
    event.synchronize();
    ASSERT_TRUE(stream.query());
  }
}

TEST(Event, MeasuresTime) {
  Stream stream;
  Event before, after;
  EXPECT_THROW(after.elapsed_ms(before), std::runtime_error);
  before.record(stream);
  stream.launch("sleep", [] { std::this_thread::sleep_for(milliseconds(5)); });
  after.record(stream);
  after.synchronize();
  EXPECT_GE(after.elapsed_ms(before), 4.9);
  EXPECT_LE(before.elapsed_ms(after), -4.9);
}

TEST(Event, MayEndBeforeItIsReachedAndOutliveItsStream) {
  Event survivor;
  {
    Stream stream;
    stream.launch("sleep", [] { std::this_thread::sleep_for(milliseconds(5)); });
    Event().record(stream);
    survivor.record(stream);
    stream.launch("bad", [] { throw std::runtime_error("after the event"); });
  }
  EXPECT_TRUE(survivor.query());
  survivor.synchronize();
}

TEST(Event, StaysOnItsDevice) {
  testing::in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    Stream first(0), second(1);
    Event event;
    event.record(first);
    EXPECT_THROW(event.record(second), std::invalid_argument);
  });
}

}  // namespace
}  // namespace attnedit
