#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// y_n = table[tokens_n]      tokens (N)   table (V,D), any storage type   y (N,D)
// A token outside [0, V) raises std::out_of_range, at the call.
Task embedding_forward(View<const int32_t, 1> tokens, WeightView<2> table, View<float, 2> y);

// dtable[tokens_n] += dy_n, in the order of n.
Task embedding_backward(View<const float, 2> dy, View<const int32_t, 1> tokens, View<float, 2> dtable);

}  // namespace attnedit::kernels
