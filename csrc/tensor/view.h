#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace attnedit {

// A borrowed, row-major, contiguous block of T with R dimensions. Owns nothing. data is null for an absent argument.
template <class T, int R>
struct View {
  T* data = nullptr;
  std::array<int64_t, R> shape{};

  int64_t dim(int axis) const { return shape[axis]; }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  explicit operator bool() const { return data != nullptr; }
};

// The same for weights, whose storage type is known only at run time.
template <int R>
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::array<int64_t, R> shape{};

  int64_t dim(int axis) const { return shape[axis]; }
  // The address of row i of a matrix.
  const void* row(int64_t i) const { return static_cast<const char*>(data) + i * shape[R - 1] * size_of(dtype); }
};

// A cache of such numbers, which is written.
template <int R>
struct CacheView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::array<int64_t, R> shape{};

  int64_t dim(int axis) const { return shape[axis]; }
};

// "(4, 64)", for messages.
template <size_t R>
std::string to_string(const std::array<int64_t, R>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < R; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (R == 1 ? ",)" : ")");
}

}  // namespace attnedit
