#include "runtime/backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "runtime/device.h"
#include "runtime/event.h"
#include "runtime/memory.h"
#include "support/process.h"

namespace attnedit {
namespace {

using testing::in_process_with;

std::string refusal() {
  try {
    backend();
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}

TEST(Backend, CpuIsThereAndSaysThatItIsSimulated) {
  const AttneditBackend& cpu = cpu_backend();
  EXPECT_EQ(cpu.struct_size, sizeof(AttneditBackend));
  EXPECT_TRUE(cpu.is_simulated && cpu.host_addressable);
  EXPECT_EQ(std::string(cpu.device_name(0)).rfind("simulated accelerator 0 (", 0), 0u);
}

TEST(Backend, CpuMemoryIsAlignedAndCounted) {
  const AttneditBackend& cpu = cpu_backend();
  for (size_t bytes : {size_t{1}, size_t{4097}, (size_t{2} << 20) + 1, size_t{64} << 20}) {
    void *block, *other;
    ASSERT_EQ(cpu.malloc(0, bytes, &block), 0);
    ASSERT_EQ(cpu.malloc(0, bytes, &other), 0);
    EXPECT_EQ(reinterpret_cast<size_t>(block) % 64, 0u);
    std::memset(block, 1, bytes);
    EXPECT_EQ(cpu.memcpy(other, block, bytes), 0);
    EXPECT_EQ(static_cast<char*>(other)[bytes - 1], 1);
    EXPECT_EQ(cpu.free(0, block, bytes) + cpu.free(0, other, bytes), 0);
  }
  void* block;
  EXPECT_NE(cpu.malloc(0, size_t{1} << 60, &block), 0);
  EXPECT_STREQ(cpu.last_error(), "the machine has no memory left");
  size_t available = 0, total = 0;
  EXPECT_EQ(cpu.memory_info(0, &available, &total), 0);
  EXPECT_TRUE(0 < available && available < total);
}

TEST(Backend, LibraryWithTheHigherScoreWins) {
  in_process_with({{"ATTNEDIT_BACKEND_PATH", OTHER_BACKEND}}, [] {
    EXPECT_STREQ(backend().name, "other");
    EXPECT_EQ(device_count(), 3);
    EXPECT_STREQ(device_name(2), "other 2");
    EXPECT_FALSE(is_simulated());
  });
}

TEST(Backend, LibraryCarriesStreamsEventsAndMemory) {
  in_process_with({{"ATTNEDIT_BACKEND_PATH", OTHER_BACKEND}}, [] {
    int* block = static_cast<int*>(allocate(sizeof(int)));
    Event before, after;
    before.record(current_stream());
    current_stream().launch("seven", [block] { *block = 7; });
    after.record(current_stream());
    current_stream().wait(after);
    after.synchronize();
    synchronize_device();
    EXPECT_EQ(*block, 7);
    EXPECT_GE(after.elapsed_ms(before), 0);
    release(block);
    EXPECT_EQ(allocate(1), block);
    current_stream().launch("bad", [] { throw std::out_of_range("no"); });
    EXPECT_THROW(current_stream().synchronize(), std::out_of_range);
  });
}

TEST(Backend, FailureNamesTheCallAndTheBackendsReason) {
  in_process_with({{"ATTNEDIT_BACKEND_PATH", OTHER_BACKEND}}, [] {
    try {
      Stream(2).synchronize();
      ADD_FAILURE();
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "[synchronize] the other backend failed: the other backend is out of order");
    }
  });
}

TEST(Backend, NameOverrulesTheScore) {
  in_process_with({{"ATTNEDIT_BACKEND_PATH", OTHER_BACKEND}, {"ATTNEDIT_BACKEND", "cpu"}},
                  [] { EXPECT_STREQ(backend().name, "cpu"); });
}

TEST(Backend, RefusesWhatItCannotLoad) {
  in_process_with({{"ATTNEDIT_BACKEND", "tpu"}},
                  [] { EXPECT_EQ(refusal(), "[ATTNEDIT_BACKEND] must be cpu, got tpu"); });
  in_process_with({{"ATTNEDIT_BACKEND_PATH", "/nowhere.so"}}, [] {
    EXPECT_EQ(refusal().rfind("[ATTNEDIT_BACKEND_PATH] cannot open the library: /nowhere.so: ", 0), 0u) << refusal();
  });
  in_process_with({{"ATTNEDIT_BACKEND_PATH", "libm.so.6"}}, [] {
    EXPECT_EQ(refusal(), "[ATTNEDIT_BACKEND_PATH] libm.so.6 has no symbol attnedit_backend_entry");
  });
  in_process_with({{"ATTNEDIT_BACKEND_PATH", OLDER_BACKEND}}, [] {
    EXPECT_EQ(refusal(), std::string("[ATTNEDIT_BACKEND_PATH] ") + OLDER_BACKEND +
                             " must speak version 1 of the backend table, got 0.7 of " +
                             std::to_string(sizeof(AttneditBackend)) + " bytes");
  });
}

}  // namespace
}  // namespace attnedit
