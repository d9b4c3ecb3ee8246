#pragma once

// What mla_decode and decode_attention share: few queries against a long cache. The cache is cut into chunks of
// positions that any worker may take, and their results are merged in order ("flash decoding" [Dao et al. 2023]).
// Multi-head latent attention is the case of one key head whose values are the first Kv numbers of its keys.
// Internal to decode_loops.cc, mla_decode.cc and decode_attention.cc.

#include "kernels/attention_tile.h"
#include "simd/isa.h"

namespace attnedit::kernels {

// The stored rows (B, S, G, width) of a cache; kept as bfloat16 or float16, they are widened block by block.
struct Cached {
  const void* data;
  int64_t width;
  bool halves, bfloat16;
};

// Queries that share a key head are neighbours: query t of head h is column g * group + t * (H / G) + h % (H / G).
struct Decode {
  AttentionSizes sizes;  // T queries, at the last T positions
  int64_t S;             // positions that the cache has room for
  bool separate_values;  // otherwise the values begin the keys
  Cached keys, values;
  const float *q, *q_rest;  // a query is K - rest numbers of q, then rest numbers of q_rest
  int64_t rest;
  const float* gate;
  float* o;
  float scale;
  // Planned from the above:
  bool wide;               // enough queries to a key head that a vector of them meets one number of a key
  int64_t group, columns;  // of one key head; of all, filled up to whole vectors
  int64_t k_row, v_row;    // K and Kv, filled up to whole vectors
  int64_t block;           // positions between two looks at the greatest score
};

constexpr int64_t kMostChunks = 32;  // of a sequence

}  // namespace attnedit::kernels

ATTNEDIT_LOOPS(
    // The queries of batch row b, times scale and log2 e, in the order that the scores want.
    void decode_pack(const Decode& d, int64_t b, float* q);
    // Positions [begin, end) of batch row b, of which query t sees those below seen + t. Into partial: for every column
    // the values summed with weights 2^(score - top); every top; every sum of weights.
    void decode_chunk(const Decode& d, int64_t b, int64_t begin, int64_t end, int64_t seen, const float* q,
                      float* partial, float* scratch);
    // o of batch row b, query t, head h, from the chunks' partials.
    void decode_merge(const Decode& d, int64_t b, int64_t t, int64_t h, int64_t chunks, const float* partials);)

#ifndef ATTNEDIT_ISA
namespace attnedit::kernels {

// Fills in what is planned.
Decode planned(Decode d);
// Scratch in floats for a planned d; pointers do not matter.
int64_t decode_workspace(int64_t B, const Decode& d);
// Raises unless there is a length for each of B sequences, none beyond S, and none but 0 below T.
void check_lengths(const char* op, View<const int32_t, 1> lengths, int64_t B, int64_t T, int64_t S);
Task decode(const Decode& d, View<const int32_t, 1> lengths, View<float, 1> workspace);

template <int R>
Cached cached(WeightView<R> cache) {
  return {cache.data, cache.dim(R - 1), cache.dtype != DType::kFloat32, cache.dtype == DType::kBFloat16};
}

}  // namespace attnedit::kernels
#endif
