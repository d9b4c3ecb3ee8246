#include "simd/isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "runtime/check.h"

namespace attnedit::simd {
namespace {

constexpr Isa kAll[] = {Isa::kAmx, Isa::kAvx512Bf16, Isa::kAvx512, Isa::kAvx2, Isa::kPortable};

Isa choose() {
  const char* wanted = std::getenv("ATTNEDIT_ISA");
  for (Isa isa : kAll)
    if (wanted && *wanted ? std::string(wanted) == name(isa) : supported(isa)) {
      ATTNEDIT_CHECK(supported(isa), "ATTNEDIT_ISA", "this processor has no ", name(isa));
      return isa;
    }
  invalid_argument("ATTNEDIT_ISA", "must be portable, avx2, avx512, avx512_bf16 or amx, got ", wanted);
}

std::atomic<int> chosen{-1};
std::atomic<int> pretended{-1};

#if defined(__x86_64__) && defined(__linux__)
// Matrix tiles are 8 KiB of state a thread: the system lets a process have them that asks. Threads made later inherit
// the permission.
MatrixTileState ask_for_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // CPUID 7.0, EDX
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kAmxBf16 | kAmxTile)) != (kAmxBf16 | kAmxTile))
    return MatrixTileState::kNone;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? MatrixTileState::kGranted
                                                                     : MatrixTileState::kRefused;
}
#else
MatrixTileState ask_for_tiles() { return MatrixTileState::kNone; }
#endif

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

MatrixTileState matrix_tiles() {
  static const MatrixTileState state = ask_for_tiles();
  return state;
}

void pretend_supported(Isa isa) { pretended.store(static_cast<int>(isa), std::memory_order_relaxed); }

bool supported([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (static_cast<int>(isa) == pretended.load(std::memory_order_relaxed)) return true;
  if (isa == Isa::kAmx) return supported(Isa::kAvx512Bf16) && matrix_tiles() == MatrixTileState::kGranted;
  if (isa == Isa::kAvx512Bf16) return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::kAvx512) return __builtin_cpu_supports("x86-64-v4");
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("x86-64-v3");
#endif
  return isa == Isa::kPortable;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return "amx";
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
