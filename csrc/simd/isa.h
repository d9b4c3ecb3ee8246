#pragma once

#include <cstdint>

// One source, compiled once per instruction set (csrc/CMakeLists.txt). A kernel file reads:
//
//   ATTNEDIT_LOOPS(void scale_rows(const float* x, float* y, int64_t n);)   // declared for every instruction set
//   #ifdef ATTNEDIT_ISA                                                     // the loops, compiled per set
//   namespace attnedit::kernels::ATTNEDIT_ISA { void scale_rows(...) { ... } }
//   #else                                                                   // the checked entry point, compiled once
//   ... ATTNEDIT_BEST(scale_rows)(x, y, n);
//   #endif
//
// The loops see pointers and integers only. An inline function of the standard library compiled under wider flags
// could be the copy that the linker keeps for everyone, and crash an older processor.

#if defined(__x86_64__)
#define ATTNEDIT_LOOPS(...)     \
  namespace attnedit::kernels { \
  namespace portable {          \
  __VA_ARGS__                   \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__                   \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__                   \
  }                             \
  namespace avx512_bf16 {       \
  __VA_ARGS__                   \
  }                             \
  namespace amx {               \
  __VA_ARGS__                   \
  }                             \
  }
#define ATTNEDIT_BEST(loop)                                                             \
  (::attnedit::simd::isa() == ::attnedit::simd::Isa::kAmx          ? &amx::loop         \
   : ::attnedit::simd::isa() == ::attnedit::simd::Isa::kAvx512Bf16 ? &avx512_bf16::loop \
   : ::attnedit::simd::isa() == ::attnedit::simd::Isa::kAvx512     ? &avx512::loop      \
   : ::attnedit::simd::isa() == ::attnedit::simd::Isa::kAvx2       ? &avx2::loop        \
                                                                   : &portable::loop)
#else
#define ATTNEDIT_LOOPS(...)     \
  namespace attnedit::kernels { \
  namespace portable {          \
  __VA_ARGS__                   \
  }                             \
  }
#define ATTNEDIT_BEST(loop) (&portable::loop)
#endif

namespace attnedit::simd {

enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// The widest set of this processor, or the one that the environment's ATTNEDIT_ISA names.
Isa isa();
// For tests: raises if the processor lacks it.
void set_isa(Isa isa);
bool supported(Isa isa);
// For tests that bring their own interpreter of instructions which this processor lacks.
void pretend_supported(Isa isa);
const char* name(Isa isa);

// Whether the processor has matrix tiles and the system lets this process use them; asked once.
enum class MatrixTileState { kNone, kRefused, kGranted };
MatrixTileState matrix_tiles();

}  // namespace attnedit::simd
