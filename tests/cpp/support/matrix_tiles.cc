#include "support/matrix_tiles.h"

#include "simd/isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>

// Intel AMX by its manual (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, chapter on TILE
// instructions): ldtilecfg, tilerelease, tilezero, tileloadd, tilestored and tdpbf16ps, as a handler of SIGILL.
namespace attnedit::testing {
namespace {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Tiles {
  bool configured = false;
  int rows[kTiles] = {}, bytes[kTiles] = {};
  float numbers[kTiles][kMostRows][kMostBytes / 4] = {};
};
thread_local Tiles tiles;

struct sigaction before;

bool configure(const uint8_t* memory) {
  Tiles next;
  next.configured = true;
  if (memory[0] != 1) return false;  // the palette
  for (int i = 1; i < 16; ++i)
    if (memory[i] != 0) return false;  // start_row, which only interrupted loads set, and what is reserved
  for (int t = 0; t < 16; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, memory + 16 + 2 * t, 2);
    const int rows = memory[48 + t];
    if (t >= kTiles ? bytes != 0 || rows != 0 : bytes > kMostBytes || rows > kMostRows || (bytes == 0) != (rows == 0))
      return false;
    if (t < kTiles) next.rows[t] = rows, next.bytes[t] = bytes;
  }
  tiles = next;
  return true;
}

bool usable(int t) { return tiles.configured && tiles.rows[t] > 0; }

float number_of(float pair, int which) {
  uint32_t bits;
  std::memcpy(&bits, &pair, 4);
  bits = which ? bits & 0xffff0000u : bits << 16;
  std::memcpy(&pair, &bits, 4);
  return pair;
}

// C += A B: the even and the odd numbers of k summed apart, then both added. Subnormals are zeros on both sides.
bool multiply(int c, int a, int b) {
  if (c == a || c == b || a == b || !usable(c) || !usable(a) || !usable(b)) return false;
  if (tiles.rows[c] != tiles.rows[a] || tiles.bytes[c] != tiles.bytes[b]) return false;
  if (tiles.bytes[a] != 4 * tiles.rows[b] || tiles.bytes[c] % 4 != 0) return false;
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040);  // FTZ and DAZ
  for (int m = 0; m < tiles.rows[c]; ++m)
    for (int n = 0; n < tiles.bytes[c] / 4; ++n) {
      float sums[2] = {};
      for (int k = 0; k < tiles.rows[b]; ++k)
        for (int which = 0; which < 2; ++which)
          sums[which] += number_of(tiles.numbers[a][m][k], which) * number_of(tiles.numbers[b][k][n], which);
      tiles.numbers[c][m][n] += sums[0] + sums[1];
    }
  _mm_setcsr(saved);
  return true;
}

// base + index * scale + displacement, of an instruction whose ModRM byte is at code[4]; length: of the instruction.
struct Address {
  uint8_t* base;
  int64_t stride;
  int length;
};
Address address_of(const uint8_t* code, const greg_t* registers) {
  static constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                         REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  const int mod = code[4] >> 6, rm = code[4] & 7;
  const int b = (~code[1] >> 5 & 1) * 8, x = (~code[1] >> 6 & 1) * 8;
  int length = 5, base = rm;
  int64_t stride = 0, at = 0;
  if (rm == 4) {
    const uint8_t sib = code[length++];
    base = sib & 7;
    if (const int index = (sib >> 3 & 7) + x; index != 4) stride = registers[kRegisters[index]] * (1 << (sib >> 6));
  }
  const bool without_base = mod == 0 && base == 5;  // with rm 5 it would be relative to rip
  if (!without_base) at = registers[kRegisters[base + b]];
  if (mod == 1) {
    at += static_cast<int8_t>(code[length++]);
  } else if (mod == 2 || without_base) {
    int32_t displacement;
    std::memcpy(&displacement, code + length, 4);
    length += 4;
    at += displacement + (without_base && rm == 5 ? registers[REG_RIP] + length : 0);
  }
  return {reinterpret_cast<uint8_t*>(at), stride, length};
}

// One instruction; its length, or 0 for what is none of these.
int interpret(const uint8_t* code, const greg_t* registers) {
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return 0;  // VEX.128.0F38.W0
  enum { kNone, k66, kF3, kF2 };
  const int prefix = code[2] & 3, opcode = code[3], tile = code[4] >> 3 & 7, other = code[4] & 7;
  const bool in_memory = code[4] >> 6 != 3;
  if (opcode == 0x49 && prefix == kNone && in_memory) {
    const Address from = address_of(code, registers);
    return configure(from.base) ? from.length : 0;
  }
  if (opcode == 0x49 && prefix == kNone && code[4] == 0xc0) {
    tiles = {};
    return 5;
  }
  if (opcode == 0x49 && prefix == kF2 && !in_memory) {
    if (!usable(tile)) return 0;
    std::memset(tiles.numbers[tile], 0, sizeof tiles.numbers[tile]);
    return 5;
  }
  if (opcode == 0x5c && prefix == kF3 && !in_memory) return multiply(tile, other, ~code[2] >> 3 & 7) ? 5 : 0;
  if (opcode != 0x4b || !in_memory || other != 4 || !usable(tile)) return 0;
  const Address rows = address_of(code, registers);
  if (prefix == kF2) {
    std::memset(tiles.numbers[tile], 0, sizeof tiles.numbers[tile]);
    for (int i = 0; i < tiles.rows[tile]; ++i)
      std::memcpy(tiles.numbers[tile][i], rows.base + i * rows.stride, tiles.bytes[tile]);
    return rows.length;
  }
  if (prefix == kF3) {
    for (int i = 0; i < tiles.rows[tile]; ++i)
      std::memcpy(rows.base + i * rows.stride, tiles.numbers[tile][i], tiles.bytes[tile]);
    return rows.length;
  }
  return 0;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const int length = interpret(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers);
  registers[REG_RIP] += length;
  if (length == 0) sigaction(SIGILL, &before, nullptr);  // it is raised again, and ends as it would have
}

bool interpreted() {
  if (!simd::supported(simd::Isa::kAvx512Bf16)) return false;
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGILL, &action, &before) != 0) return false;
  simd::pretend_supported(simd::Isa::kAmx);
  return true;
}

}  // namespace

bool has_matrix_tiles() {
  static const bool has = simd::supported(simd::Isa::kAmx) || interpreted();
  return has;
}

}  // namespace attnedit::testing

#else

namespace attnedit::testing {
bool has_matrix_tiles() { return false; }
}  // namespace attnedit::testing

#endif
