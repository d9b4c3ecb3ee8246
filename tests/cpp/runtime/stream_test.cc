#include "runtime/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "runtime/event.h"
#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "support/process.h"

namespace attnedit {
namespace {

// Holds a stream until opened.
class Gate {
 public:
  Task task() {
    return [opened = opened_] { opened.wait(); };
  }
  void open() { promise_.set_value(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> opened_ = promise_.get_future().share();
};

template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(Stream, RunsInTheOrderOfLaunch) {
  Stream stream;
  std::vector<int> order;
  for (int i = 0; i < 5000; ++i) stream.launch("push", [&order, i] { order.push_back(i); });
  stream.synchronize();
  ASSERT_EQ(order.size(), 5000u);
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(order[i], i);
}

TEST(Stream, LaunchDoesNotWaitAndSynchronizeDoes) {
  Stream stream;
  Gate gate;
  std::atomic<bool> done = false;
  stream.launch("gate", gate.task());
  stream.launch("done", [&] { done = true; });
  EXPECT_FALSE(done);
  EXPECT_FALSE(stream.query());
  gate.open();
  stream.synchronize();
  EXPECT_TRUE(done);
  EXPECT_TRUE(stream.query());
}

TEST(Stream, FullQueueBlocksTheProducer) {
  Stream stream;
  Gate gate;
  std::atomic<int> launched = 0;
  stream.launch("gate", gate.task());
  std::thread producer([&] {
    for (int i = 0; i < 3000; ++i) {
      stream.launch("count", [] {});
      ++launched;
    }
  });
  while (launched < 1000) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LT(launched, 3000);
  gate.open();
  producer.join();
  stream.synchronize();
}

// A gate holds the cores of its device, so two streams that shall differ are on two.
TEST(Stream, HasNoOrderAgainstAnother) {
  testing::in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    Stream first(0), second(1);
    Gate gate;
    bool ran = false;
    first.launch("gate", gate.task());
    second.launch("ran", [&] { ran = true; });
    second.synchronize();
    EXPECT_TRUE(ran);
    EXPECT_FALSE(first.query());
    gate.open();
  });
}

TEST(Stream, ComputesOneTaskOfADeviceAtATime) {
  std::atomic<int> running = 0, most = 0;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int s = 0; s < 4; ++s) streams.push_back(std::make_unique<Stream>());
  for (int i = 0; i < 50; ++i)
    for (auto& stream : streams)
      stream->launch("count", [&] {
        most = std::max(most.load(), ++running);
        std::this_thread::sleep_for(std::chrono::microseconds(50));
        --running;
      });
  synchronize_device();
  EXPECT_EQ(most, 1);
}

TEST(Stream, ErrorSurfacesAtTheNextSynchronizeWithTheName) {
  Stream stream;
  bool later = false;
  stream.launch("cross_entropy", [] { throw std::invalid_argument("label 7 is out of range"); });
  stream.launch("later", [&] { later = true; });
  try {
    stream.synchronize();
    FAIL();
  } catch (const std::invalid_argument& e) {
    EXPECT_STREQ(e.what(), "[cross_entropy] label 7 is out of range");
  }
  EXPECT_FALSE(later);
  stream.synchronize();  // it surfaced once
  stream.launch("later", [&] { later = true; });
  stream.synchronize();
  EXPECT_TRUE(later);
}

TEST(Stream, ErrorKeepsItsType) {
  Stream stream;
  stream.launch("a", [] { throw OutOfMemory("full"); });
  EXPECT_THROW(stream.synchronize(), std::bad_alloc);
  stream.launch("b", [] { throw std::out_of_range("far"); });
  EXPECT_THROW(stream.synchronize(), std::out_of_range);
  stream.launch("c", [] { throw 5; });
  EXPECT_EQ(message_of([&] { stream.synchronize(); }), "[c] failed");
  stream.launch("d", [] { throw std::runtime_error("[d] named already"); });
  EXPECT_EQ(message_of([&] { stream.synchronize(); }), "[d] named already");
}

TEST(Stream, ErrorSurfacesAtTheDeviceAndAtLaterEventsOnly) {
  Stream stream, healthy;
  Event before, after;
  before.record(stream);
  stream.launch("bad", [] { throw std::runtime_error("no"); });
  after.record(stream);
  before.synchronize();
  healthy.synchronize();
  EXPECT_EQ(message_of([&] { after.synchronize(); }), "[bad] no");
  stream.launch("bad again", [] { throw std::runtime_error("no"); });
  EXPECT_EQ(message_of([] { synchronize_device(); }), "[bad again] no");
  synchronize_device();
}

TEST(Stream, TasksQueuedBeforeTheErrorSurfacedStaySkipped) {
  testing::in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    Stream stream(0), other(1);
    Gate gate;
    Event bad, opened;
    int ran = 0;
    other.launch("gate", gate.task());
    opened.record(other);
    stream.launch("bad", [] { throw std::runtime_error("no"); });
    bad.record(stream);
    stream.wait(opened);
    stream.launch("count", [&] { ++ran; });
    EXPECT_THROW(bad.synchronize(), std::runtime_error);
    gate.open();
    stream.synchronize();
    EXPECT_EQ(ran, 0);
    stream.launch("count", [&] { ++ran; });
    stream.synchronize();
    EXPECT_EQ(ran, 1);
  });
}

TEST(Stream, BlockingModeSurfacesAtTheCall) {
  testing::in_process_with({{"ATTNEDIT_LAUNCH_BLOCKING", "1"}}, [] {
    const auto here = std::this_thread::get_id();
    std::thread::id there;
    current_stream().launch("where", [&] { there = std::this_thread::get_id(); });
    EXPECT_EQ(there, here);
    EXPECT_EQ(message_of([] { current_stream().launch("bad", [] { throw std::runtime_error("no"); }); }), "[bad] no");
    current_stream().synchronize();
    Event event;
    event.record(current_stream());
    Stream().wait(event);
    EXPECT_TRUE(event.query());
  });
}

TEST(Stream, CurrentOneIsPerThreadUnlessSet) {
  Stream* mine = &current_stream();
  EXPECT_EQ(&current_stream(), mine);
  std::thread([&] { EXPECT_NE(&current_stream(), mine); }).join();
  auto made = std::make_shared<Stream>();
  auto before = current_stream().shared_from_this();
  set_current_stream(made);
  EXPECT_EQ(&current_stream(), made.get());
  set_current_stream(before);
  EXPECT_EQ(&current_stream(), mine);
  EXPECT_THROW(set_current_stream(nullptr), std::invalid_argument);
}

TEST(Stream, EndWaitsForItsTasks) {
  std::atomic<int> ran = 0;
  {
    Stream stream;
    for (int i = 0; i < 100; ++i) stream.launch("count", [&] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

// y = 3 y + i, in turns: wrong in any other order.
std::vector<float> chain(int streams) {
  std::vector<std::unique_ptr<Stream>> all;
  for (int s = 0; s < streams; ++s) all.push_back(std::make_unique<Stream>());
  std::vector<float> y(10000, 1);
  for (int i = 0; i < 40; ++i) {
    Stream& stream = *all[i % streams];
    stream.launch("step", [&y, i] {
      parallel_for(y.size(), 64, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) y[k] = 3 * y[k] + static_cast<float>(i) * 1e-3f;
      });
    });
    Event event;
    event.record(stream);
    all[(i + 1) % streams]->wait(event);
  }
  synchronize_device();
  return y;
}

TEST(Stream, SameResultForOneOrManyStreams) {
  const auto want = chain(1);
  for (int streams : {2, 3, 7}) EXPECT_EQ(chain(streams), want);
}

TEST(Stream, ManyThreadsMayShareOne) {
  Stream stream;
  int count = 0;  // no atomic: tasks of one stream never overlap
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) stream.launch("count", [&] { ++count; });
    });
  for (auto& thread : threads) thread.join();
  stream.synchronize();
  EXPECT_EQ(count, 4000);
}

}  // namespace
}  // namespace attnedit
