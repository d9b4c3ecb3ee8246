#include "runtime/parallel.h"

#include <atomic>

#include "runtime/check.h"

namespace attnedit {
namespace {
std::atomic<int> budget{0};
}

int num_threads() {
  const int threads = budget.load(std::memory_order_relaxed);
  if (threads > 0) return threads;
  budget.store(std::max(1, omp_get_max_threads()), std::memory_order_relaxed);
  return budget.load(std::memory_order_relaxed);
}

void set_num_threads(int threads) {
  ATTNEDIT_CHECK(threads >= 1, "set_num_threads", "threads must be at least 1, got ", threads);
  budget.store(threads, std::memory_order_relaxed);
}

}  // namespace attnedit
