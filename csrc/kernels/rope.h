#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Rotary position embedding [Su et al. 2021] of the dims [offset, offset + P) of every head; the others are copied.
// With angle a = position * inv_freq_i and the tables cos, sin (S, P/2), already times the attention factor:
//   half split (Hugging Face's default):  pairs (x_i, x_{i + P/2})       interleaved (DeepSeek): pairs (x_2i, x_2i+1)
//   (x, x') -> (x cos a - x' sin a,  x' cos a + x sin a), written to the same two places
//   x, y (B,T,H,K)   positions: row t of every sequence uses table row start + t, start + T <= S
enum class RopeLayout { kHalfSplit, kInterleaved };

Task rope_forward(View<const float, 4> x, View<const float, 2> cos, View<const float, 2> sin, int64_t start,
                  int64_t offset, RopeLayout layout, View<float, 4> y);

// The transposed rotation; dx is overwritten.
Task rope_backward(View<const float, 4> dy, View<const float, 2> cos, View<const float, 2> sin, int64_t start,
                   int64_t offset, RopeLayout layout, View<float, 4> dx);

}  // namespace attnedit::kernels
