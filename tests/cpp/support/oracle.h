#pragma once

#include <gtest/gtest.h>

#include <complex>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/parallel.h"
#include "simd/isa.h"
#include "support/matrix_tiles.h"
#include "tensor/view.h"

namespace attnedit::testing {

using Complex = std::complex<double>;

inline std::vector<float> normal(int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> distribution(0, scale);
  std::vector<float> x(n);
  for (float& value : x) value = distribution(rng);
  return x;
}

template <class T>
std::vector<T> lift(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

// Complex step: d/dx f(x) = Im f(x + ih) / h. Exact to about 1e-12 with no step size to tune, because nothing is
// subtracted. f must be analytic: compare by std::real, no abs.
template <class F>
std::vector<double> gradient(std::vector<Complex>& x, const F& f) {
  constexpr double h = 1e-50;
  std::vector<double> g(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] += Complex(0, h);
    g[i] = f().imag() / h;
    x[i] = x[i].real();
  }
  return g;
}

template <int R>
View<const float, R> in(const std::vector<float>& x, std::array<int64_t, R> shape) {
  return {x.data(), shape};
}
template <int R>
View<float, R> out(std::vector<float>& x, std::array<int64_t, R> shape) {
  return {x.data(), shape};
}

// |got - want| <= tolerance * (1 + |want|), element by element.
template <class T>
void expect_close(const std::vector<float>& got, const std::vector<T>& want, double tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const double w = std::real(want[i]);
    ASSERT_LE(std::abs(got[i] - w), tolerance * (1 + std::abs(w)))
        << what << "[" << i << "] is " << got[i] << ", wanted " << w << " (" << simd::name(simd::isa()) << ")";
  }
}

// Runs body once for every instruction set that this machine has, or can have interpreted.
template <class F>
void on_every_isa(const F& body) {
  const simd::Isa before = simd::isa();
  for (simd::Isa isa :
       {simd::Isa::kPortable, simd::Isa::kAvx2, simd::Isa::kAvx512, simd::Isa::kAvx512Bf16, simd::Isa::kAmx})
    if (isa == simd::Isa::kAmx ? has_matrix_tiles() : simd::supported(isa)) {
      simd::set_isa(isa);
      body();
    }
  simd::set_isa(before);
}

// compute() returns every output; it must give the same bits for any number of threads.
template <class F>
void expect_same_bits_for_any_threads(const F& compute) {
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<float> first = compute();
  for (int threads : {2, 3, 7}) {
    set_num_threads(threads);
    EXPECT_EQ(compute(), first) << threads << " threads";
  }
  set_num_threads(before);
}

// What body raised.
inline std::string message(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing was raised";
}

}  // namespace attnedit::testing
