#pragma once

#include "runtime/task.h"

namespace attnedit::bindings {

// Queues the task on the current stream, without the GIL: a full queue, or ATTNEDIT_LAUNCH_BLOCKING=1, makes it wait.
void launch(const char* name, Task task);

}  // namespace attnedit::bindings
