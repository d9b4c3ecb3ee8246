#include "runtime/rehearsal.h"

#include <utility>

#include "runtime/check.h"

namespace attnedit {
namespace {

thread_local bool on = false;
thread_local std::vector<Rehearsed> tasks;

}  // namespace

bool rehearsing() { return on; }
size_t rehearsed() { return tasks.size(); }

void start_rehearsal() {
  ATTNEDIT_CHECK(!on, "start_rehearsal", "this thread must not rehearse already");
  open_rehearsal_pool();
  tasks.clear();
  on = true;
}

Rehearsal stop_rehearsal() {
  ATTNEDIT_CHECK(on, "stop_rehearsal", "start_rehearsal must come first");
  on = false;
  return {std::exchange(tasks, {}), close_rehearsal_pool()};
}

void note_rehearsed(Rehearsed task) { tasks.push_back(std::move(task)); }

}  // namespace attnedit
