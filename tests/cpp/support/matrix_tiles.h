#pragma once

namespace attnedit::testing {

// Whether the instruction set amx can be tested here: on a processor that has it, or on one that has the rest of it,
// whose illegal tile instructions are then interpreted. Asked once; from then on simd::supported agrees.
bool has_matrix_tiles();

}  // namespace attnedit::testing
