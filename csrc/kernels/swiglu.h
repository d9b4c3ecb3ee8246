#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// y = silu(gate) * up,   silu(a) = a / (1 + exp(-a))      [Shazeer 2020]       all (N,F)
Task swiglu_forward(View<const float, 2> gate, View<const float, 2> up, View<float, 2> y);

// dgate and dup are overwritten.
Task swiglu_backward(View<const float, 2> dy, View<const float, 2> gate, View<const float, 2> up, View<float, 2> dgate,
                     View<float, 2> dup);

}  // namespace attnedit::kernels
