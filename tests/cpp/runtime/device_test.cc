#include "runtime/device.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <thread>

#include "runtime/memory.h"
#include "runtime/stream.h"
#include "support/process.h"

namespace attnedit {
namespace {

using testing::in_process_with;

TEST(Device, CountComesFromTheEnvironment) {
  in_process_with({{"ATTNEDIT_DEVICE_COUNT", "3"}}, [] {
    EXPECT_EQ(device_count(), 3);
    EXPECT_NE(std::strstr(device_name(2), "simulated accelerator 2"), nullptr);
    EXPECT_THROW(set_current_device(3), std::invalid_argument);
    EXPECT_THROW(set_current_device(-1), std::invalid_argument);
  });
  in_process_with({{"ATTNEDIT_DEVICE_COUNT", "many"}}, [] { EXPECT_THROW(device_count(), std::runtime_error); });
}

TEST(Device, IsPerThread) {
  in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    set_current_device(1);
    std::thread([] { EXPECT_EQ(current_device(), 0); }).join();
    EXPECT_EQ(current_device(), 1);
    EXPECT_EQ(current_stream().device(), 1);
  });
}

TEST(Device, MemoryOfOneIsNotMemoryOfAnother) {
  in_process_with({{"ATTNEDIT_DEVICE_COUNT", "2"}}, [] {
    set_current_device(1);
    void* block = allocate(1000);
    EXPECT_EQ(memory_stats(0).allocated, 0u);
    EXPECT_EQ(memory_stats(1).allocated, 1024u);
    set_current_device(0);
    release(block);
    EXPECT_EQ(memory_stats(1).allocated, 0u);
    EXPECT_NE(allocate(1000), block);
  });
}

TEST(Device, ForkedChildIsRefusedAndDoesNotHang) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer's own allocator stays locked in a child of several threads";
#endif
  in_process_with({}, [] {
    void* block = allocate(64);
    current_stream().launch("work", [] {});
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);
      int refused = 0;
      auto expect_refusal = [&](auto call) {
        try {
          call();
        } catch (const std::runtime_error&) {
          ++refused;
        }
      };
      expect_refusal([] { current_stream().launch("work", [] {}); });
      expect_refusal([] { current_stream().synchronize(); });
      expect_refusal([] { synchronize_device(); });
      expect_refusal([] { Stream another; });
      expect_refusal([] { allocate(64); });
      release(block);
      wait_for_all_streams();
      std::exit(refused);  // and the thread's own stream must not wait for a thread that is not there
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 5);
    current_stream().synchronize();  // the parent goes on
  });
}

}  // namespace
}  // namespace attnedit
