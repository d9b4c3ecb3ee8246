#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "tensor/view.h"

namespace attnedit::testing {

// Numbers in their storage type, and what they stand for there.
struct Stored {
  DType dtype;
  std::vector<float> numbers;
  std::vector<uint16_t> halves;

  Stored(DType type, std::vector<float> x) : dtype(type), numbers(std::move(x)) {
    if (dtype == DType::kFloat32) return;
    for (float& number : numbers) {
      const uint32_t bits = std::bit_cast<uint32_t>(number);
      if (dtype == DType::kBFloat16) {
        halves.push_back(bits >> 16);
        number = std::bit_cast<float>(bits & 0xffff0000u);
      } else {  // multiples of 1/256 below 4 are exact in float16
        number = std::clamp(std::round(number * 256) / 256, -3.f, 3.f);
        const uint32_t exact = std::bit_cast<uint32_t>(number);
        halves.push_back(number == 0 ? 0 : (exact >> 16 & 0x8000) | ((exact & 0x7fffffff) - (112u << 23)) >> 13);
      }
    }
  }
  template <int R>
  WeightView<R> view(std::array<int64_t, R> shape) const {
    return {dtype == DType::kFloat32 ? static_cast<const void*>(numbers.data()) : halves.data(), dtype, shape};
  }
};

}  // namespace attnedit::testing
