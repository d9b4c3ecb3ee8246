#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// y = a + b, element by element; y may be a or b. The residual stream, and gradients that meet.
Task add(View<const float, 1> a, View<const float, 1> b, View<float, 1> y);

// y = value everywhere.
Task fill(float value, View<float, 1> y);

}  // namespace attnedit::kernels
