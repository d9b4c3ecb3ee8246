#include "simd/isa.h"

// Tokens [begin, end) of a table, or for the table's gradient the tokens that are `part` modulo `parts`.
ATTNEDIT_LOOPS(void gather(const int32_t* tokens, const float* table, float* y, bool past_caches, int64_t D,
                           int64_t begin, int64_t end);
               void gather_bfloat16(const int32_t* tokens, const uint16_t* table, float* y, int64_t D, int64_t begin,
                                    int64_t end);
               void gather_float16(const int32_t* tokens, const uint16_t* table, float* y, int64_t D, int64_t begin,
                                   int64_t end);
               void scatter_add(const float* dy, const int32_t* tokens, float* dtable, int64_t N, int64_t D,
                                int64_t part, int64_t parts);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// The processor cannot guess which row comes next: it is fetched while this one is copied.
template <bool kStream>
void gather_rows(const int32_t* tokens, const float* table, float* y, int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* row = table + tokens[n] * D;
    const float* next = table + tokens[n + 1 < end ? n + 1 : n] * D;
    int64_t d = 0;
    for (; d + kLanes <= D; d += kLanes) {
      __builtin_prefetch(next + d);
      put<kStream>(y + n * D + d, load(row + d));
    }
    for (; d < D; ++d) y[n * D + d] = row[d];
  }
  if (kStream) end_stream();
}

}  // namespace

void gather(const int32_t* tokens, const float* table, float* y, bool past_caches, int64_t D, int64_t begin,
            int64_t end) {
  (past_caches ? gather_rows<true> : gather_rows<false>)(tokens, table, y, D, begin, end);
}

void gather_bfloat16(const int32_t* tokens, const uint16_t* table, float* y, int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) widen_bfloat16(table + tokens[n] * D, y + n * D, D);
}

void gather_float16(const int32_t* tokens, const uint16_t* table, float* y, int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) widen_float16(table + tokens[n] * D, y + n * D, D);
}

void scatter_add(const float* dy, const int32_t* tokens, float* dtable, int64_t N, int64_t D, int64_t part,
                 int64_t parts) {
  const auto own = [=](int64_t n) {
    while (n < N && tokens[n] % parts != part) ++n;
    return n;
  };
  for (int64_t n = own(0), next; n < N; n = next) {
    next = own(n + 1);
    const int64_t fetched = next < N ? next : n;
    const float* dy_n = dy + n * D;
    float* row = dtable + tokens[n] * D;
    int64_t d = 0;
    for (; d + kLanes <= D; d += kLanes) {
      __builtin_prefetch(dy + fetched * D + d);
      __builtin_prefetch(dtable + tokens[fetched] * D + d, 1);
      store(row + d, load(row + d) + load(dy_n + d));
    }
    for (; d < D; ++d) row[d] += dy_n[d];
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/embedding.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
namespace {

void check_tokens(const char* op, View<const int32_t, 1> tokens, int64_t V) {
  for (int64_t n = 0; n < tokens.dim(0); ++n)
    if (tokens.data[n] < 0 || tokens.data[n] >= V) {
      std::ostringstream message;
      message << "[" << op << "] tokens must be in [0, " << V << "), the vocabulary, got " << tokens.data[n]
              << " at position " << n;
      throw std::out_of_range(message.str());
    }
}

}  // namespace

Task embedding_forward(View<const int32_t, 1> tokens, WeightView<2> table, View<float, 2> y) {
  const int64_t N = tokens.dim(0), V = table.dim(0), D = table.dim(1);
  ATTNEDIT_CHECK(y.dim(0) == N && y.dim(1) == D, "embedding", "y must have shape (", N, ", ", D, "), got ",
                 to_string(y.shape));
  check_tokens("embedding", tokens, V);
  // Of the table only the tokens' rows.
  Task task = [=] {
    const bool past_caches = simd::stores_past_caches(2 * N * D, {y.data}, {D});
    parallel_rows(N, D, [&](int64_t begin, int64_t end) {
      const auto* halves = static_cast<const uint16_t*>(table.data);
      switch (table.dtype) {
        case DType::kFloat32:
          ATTNEDIT_BEST(gather)
          (tokens.data, static_cast<const float*>(table.data), y.data, past_caches, D, begin, end);
          break;
        case DType::kBFloat16:
          ATTNEDIT_BEST(gather_bfloat16)(tokens.data, halves, y.data, D, begin, end);
          break;
        case DType::kFloat16:
          ATTNEDIT_BEST(gather_float16)(tokens.data, halves, y.data, D, begin, end);
          break;
      }
    });
  };
  return std::move(task).moving(1.0 * N * D * (size_of(table.dtype) + 4));
}

Task embedding_backward(View<const float, 2> dy, View<const int32_t, 1> tokens, View<float, 2> dtable) {
  const int64_t N = tokens.dim(0), V = dtable.dim(0), D = dtable.dim(1);
  ATTNEDIT_CHECK(dy.dim(0) == N && dy.dim(1) == D, "embedding_backward", "dy must have shape (", N, ", ", D, "), got ",
                 to_string(dy.shape));
  check_tokens("embedding_backward", tokens, V);
  Task task = [=] {
    // A token has one owner, who adds its rows in the order of n. Dealt by number: a text's frequent tokens are
    // neighbours in most vocabularies.
    const int64_t parts = N * D < kGrain ? 1 : 4 * num_threads();
    parallel_items(parts, [&](int64_t part, int) {
      ATTNEDIT_BEST(scatter_add)(dy.data, tokens.data, dtable.data, N, D, part, parts);
    });
  };
  return std::move(task).moving(12.0 * N * D);
}

}  // namespace attnedit::kernels
#endif
