#pragma once

#include <cstdint>

namespace attnedit {

// Kernels compute in float32. bfloat16 and float16 are storage: weights that are not trained stay in them and are
// widened inside the kernel.
enum class DType { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace attnedit
