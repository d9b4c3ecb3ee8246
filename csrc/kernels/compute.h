#pragma once

namespace attnedit::kernels {

// What the numbers of a product are multiplied as. Sums, and everything that is not a product, are float32 either way.
// kBFloat16 rounds both operands to bfloat16 (relative 2^-9) on their way into packed form. A processor without dot
// products of bfloat16 gives the same up to the order of sums, slower than float32.
enum class Compute { kFloat32, kBFloat16 };

}  // namespace attnedit::kernels
