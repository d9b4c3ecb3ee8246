#include "simd/isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "runtime/check.h"

namespace attnedit::simd {
namespace {

constexpr Isa kAll[] = {Isa::kAvx512Bf16, Isa::kAvx512, Isa::kAvx2, Isa::kPortable};

Isa choose() {
  const char* wanted = std::getenv("ATTNEDIT_ISA");
  for (Isa isa : kAll)
    if (wanted && *wanted ? std::string(wanted) == name(isa) : supported(isa)) {
      ATTNEDIT_CHECK(supported(isa), "ATTNEDIT_ISA", "this processor has no ", name(isa));
      return isa;
    }
  invalid_argument("ATTNEDIT_ISA", "must be portable, avx2, avx512 or avx512_bf16, got ", wanted);
}

std::atomic<int> chosen{-1};

}  // namespace

Isa isa() {
  int now = chosen.load(std::memory_order_relaxed);
  if (now < 0) chosen.store(now = static_cast<int>(choose()), std::memory_order_relaxed);
  return static_cast<Isa>(now);
}

void set_isa(Isa isa) {
  ATTNEDIT_CHECK(supported(isa), "set_isa", "this processor has no ", name(isa));
  chosen.store(static_cast<int>(isa), std::memory_order_relaxed);
}

bool supported([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Bf16) return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::kAvx512) return __builtin_cpu_supports("x86-64-v4");
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("x86-64-v3");
#endif
  return isa == Isa::kPortable;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

}  // namespace attnedit::simd
