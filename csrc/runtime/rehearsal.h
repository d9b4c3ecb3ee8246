#pragma once

#include <string>
#include <vector>

#include "runtime/memory.h"

namespace attnedit {

// A task that was not run, and what it would have needed.
struct Rehearsed {
  std::string name;
  double flops, bytes;
};
struct Rehearsal {
  std::vector<Rehearsed> tasks;
  MemoryStats memory;  // of a pool of its own, empty at the start
};

// While this thread rehearses, what it launches is noted and not run, and what it allocates is counted and never
// touched: a program told by its own code what it will take. Values are undefined, so it must not look at any.
bool rehearsing();
size_t rehearsed();  // tasks noted so far
void start_rehearsal();
Rehearsal stop_rehearsal();
void note_rehearsed(Rehearsed task);
// For memory.cc: the pool of the rehearsal begins anew, and tells what was in it.
void open_rehearsal_pool();
MemoryStats close_rehearsal_pool();

}  // namespace attnedit
