#include "runtime/lost_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

namespace attnedit {
namespace {

// Two pages of a file, mapped; the second is cut off behind the mapping's back.
class LostFile : public ::testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    path_ = ::testing::TempDir() + "attnedit lost " + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    const int file = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_GE(file, 0);
    ASSERT_EQ(ftruncate(file, 2 * page_), 0);
    pages_ = static_cast<char*>(mmap(nullptr, 2 * page_, PROT_READ, MAP_SHARED, file, 0));
    ASSERT_NE(pages_, MAP_FAILED);
    ASSERT_EQ(ftruncate(file, page_), 0);
    close(file);
  }
  void TearDown() override {
    munmap(pages_, 2 * page_);
    std::remove(path_.c_str());
  }
  void look(long offset) { looked_ = pages_[offset]; }

  const long page_ = sysconf(_SC_PAGESIZE);
  std::string path_;
  char* pages_ = nullptr;
  volatile char looked_ = 0;
};

using LostFileDeathTest = LostFile;

TEST_F(LostFileDeathTest, IsNamedAndEndsTheProcess) {
  EXPECT_EXIT(
      {
        report_lost_files();
        report_lost_files();
        look(page_ - 1);
        look(page_);
      },
      ::testing::ExitedWithCode(2),
      "^attnedit: /.*attnedit lost IsNamedAndEndsTheProcess: was cut while it was open, or its disk failed");
}

TEST_F(LostFileDeathTest, IsToldOnceByManyThreads) {
  EXPECT_EXIT(
      {
        report_lost_files();
        std::thread other([&] { look(2 * page_ - 1); });
        look(page_);
        other.join();
      },
      ::testing::ExitedWithCode(2), "^attnedit: [^\n]*\n$");
}

TEST_F(LostFileDeathTest, OtherFaultsGoOnAsBefore) {
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);  // a sanitizer has a handler of its own
        report_lost_files();
        raise(SIGBUS);
      },
      ::testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace attnedit
