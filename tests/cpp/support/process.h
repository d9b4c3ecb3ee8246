#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <utility>

namespace attnedit::testing {

// Runs body in a new process with these variables: what the environment says is read once.
template <class F>
void in_process_with(std::initializer_list<std::pair<const char*, const char*>> environment, const F& body) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // starts the program again instead of forking its threads
  EXPECT_EXIT(
      {
        for (const auto& [name, value] : environment) setenv(name, value, 1);
        body();
        std::exit(::testing::Test::HasFailure());
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace attnedit::testing
