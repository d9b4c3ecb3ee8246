#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/compute.h"

namespace attnedit::testing {

// What the numbers are multiplied as: bfloat16 rounds both factors to the nearest, ties to even, and nothing else.
inline std::vector<float> factors(kernels::Compute compute, std::vector<float> x) {
  if (compute == kernels::Compute::kBFloat16)
    for (float& number : x) {
      const uint32_t bits = std::bit_cast<uint32_t>(number);
      number = std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
    }
  return x;
}
constexpr kernels::Compute kComputes[] = {kernels::Compute::kFloat32, kernels::Compute::kBFloat16};

}  // namespace attnedit::testing
