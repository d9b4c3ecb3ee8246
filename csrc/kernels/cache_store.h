#pragma once

#include "runtime/task.h"
#include "tensor/view.h"

namespace attnedit::kernels {

// Puts the newest rows of every sequence into its cache, rounded to the cache's type (to nearest, ties to even):
//   x (B,T,W)   cache (B,S,C), float32, bfloat16 or float16   first (B): the position of row 0 of a sequence
// Position p lies in the columns [offset, offset + W) of slot p mod S, so that S slots are a ring of the last S
// positions; of more than S rows the last S are kept. A sequence whose first is negative is left alone.
Task cache_store(View<const float, 3> x, View<const int32_t, 1> first, int64_t offset, CacheView<3> cache);

}  // namespace attnedit::kernels
