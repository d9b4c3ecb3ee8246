#include "simd/isa.h"

// Rows [begin, end) of a block of logits z (.,width), in base 2: exp(logit) = 2^z. The block starts at token v0.
ATTNEDIT_LOOPS(void cross_entropy_rows(float* z, int64_t width, int64_t v0, const int32_t* labels, float* peak,
                                       float* denominator, float* label_z, int32_t* argmax, float* sums, int64_t D,
                                       int64_t begin, int64_t end);
               void cross_entropy_gradient_rows(float* z, int64_t width, int64_t v0, const int32_t* labels,
                                                const float* weights, const float* log_sum, int64_t begin, int64_t end);
               void cross_entropy_hidden_row(const float* head_row, float scale, float weight, float* dhidden,
                                             int64_t D);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

// Running peak m and denominator sum_v 2^(z_v - m). Where sums (.,D) is given, z becomes 2^(z - m), ready for the
// product with the head, and what sums holds of earlier blocks is brought to the new peak.
void cross_entropy_rows(float* z, int64_t width, int64_t v0, const int32_t* labels, float* peak, float* denominator,
                        float* label_z, int32_t* argmax, float* sums, int64_t D, int64_t begin, int64_t end) {
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
  for (int64_t n = begin; n < end; ++n) {
    float* z_n = z + n * width;
    const int64_t label = labels[n] - v0;
    if (label >= 0 && label < width) label_z[n] = z_n[label];

    Vec largest = splat(-INFINITY);
    for (int64_t v = 0; v < whole; v += kLanes) largest = max(largest, load(z_n + v));
    if (rest) largest = max(largest, load_part(z_n + whole, rest, -INFINITY));
    const float top = max_lane(largest), before = v0 ? peak[n] : -INFINITY;
    if (v0 == 0) argmax[n] = 0;
    const float m = top > before ? top : before;
    if (top > before) {
      int64_t v = 0;
      while (v < width && z_n[v] != top) ++v;
      argmax[n] = static_cast<int32_t>(v0 + (v < width ? v : 0));
    }

    Vec sum_n{};
    for (int64_t v = 0; v < whole; v += kLanes) {
      const Vec e = exp2(load(z_n + v) - m);
      if (sums) store(z_n + v, e);
      sum_n += e;
    }
    if (rest) {
      const Vec e = exp2(load_part(z_n + whole, rest, -INFINITY) - m);
      if (sums) store_part(z_n + whole, e, rest);
      sum_n += e;
    }
    const float rescale = v0 ? exp2(splat(before - m))[0] : 0;
    denominator[n] = (v0 ? denominator[n] * rescale : 0) + sum(sum_n);
    peak[n] = m;
    if (sums && v0 && rescale != 1)
      for (int64_t d = 0; d < D; ++d) sums[n * D + d] *= rescale;
  }
}

// z becomes dloss/dlogits = weight (softmax - onehot(label)).
void cross_entropy_gradient_rows(float* z, int64_t width, int64_t v0, const int32_t* labels, const float* weights,
                                 const float* log_sum, int64_t begin, int64_t end) {
  const int64_t whole = width / kLanes * kLanes, rest = width - whole;
  for (int64_t n = begin; n < end; ++n) {
    float* z_n = z + n * width;
    const float weight = labels[n] < 0 ? 0 : weights[n];
    for (int64_t v = 0; v < whole; v += kLanes) store(z_n + v, weight * exp2(load(z_n + v) - log_sum[n]));
    if (rest) store_part(z_n + whole, weight * exp2(load_part(z_n + whole, rest) - log_sum[n]), rest);
    const int64_t label = labels[n] - v0;
    if (label >= 0 && label < width) z_n[label] -= weight;
  }
}

// dhidden = weight (sum_v softmax_v head_v - head_label), where dhidden holds the sum times 1 / scale.
void cross_entropy_hidden_row(const float* head_row, float scale, float weight, float* dhidden, int64_t D) {
  for (int64_t d = 0; d < D; ++d) dhidden[d] = weight * (dhidden[d] * scale - head_row[d]);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>
#include <numbers>

#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "kernels/vocabulary_blocks.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr float kLog2E = std::numbers::log2e_v<float>;

// The call's views and its scratch, cut up.
struct CrossEntropy {
  View<const float, 2> hidden;
  WeightView<2> head;
  View<const int32_t, 1> labels;
  View<const float, 1> weights;
  View<float, 1> nll;
  View<int32_t, 1> argmax;
  View<float, 2> dhidden, dhead;
  VocabularyBlocks blocks;
  Compute compute;
  float *z, *packed, *left_hidden, *left_rows, *right_hidden, *peak, *denominator, *label_z;

  // Tokens [begin, begin + rows).
  void tile(int64_t begin, int64_t rows) const;

  // z = log2(e) hidden head^T for the block at v0.
  void logits(int64_t rows, int64_t v0, int64_t width) const {
    const int64_t D = head.dim(1);
    pack_right(width, D, transposed_rows(head, v0), compute, packed);
    packed_product(rows, width, D, left_hidden, packed, compute, false, z, width);
  }
  // sums (+)= z head, for the block's rows of the head.
  void add_heads(int64_t rows, int64_t v0, int64_t width, float* sums) const {
    const int64_t D = head.dim(1);
    pack_right(D, width, plain_rows(head, v0), compute, packed);
    pack_left(rows, width, 1, {z, width, 1}, compute, left_rows);
    packed_product(rows, D, width, left_rows, packed, compute, v0 > 0, sums, D);
  }
};

void CrossEntropy::tile(int64_t begin, int64_t rows) const {
  const int64_t V = head.dim(0), D = head.dim(1);
  const float* hidden_tile = hidden.data + begin * D;
  const int32_t* labels_tile = labels.data + begin;
  float* dhidden_tile = dhidden ? dhidden.data + begin * D : nullptr;
  // One pass carries sum_v 2^(z_v - peak) head_v along. Two are needed when the probabilities themselves are, for the
  // head; and cost nothing when the block that the first one left is the whole vocabulary.
  const bool second_pass = dhead || (dhidden && blocks.count == 1);
  float* sums = second_pass ? nullptr : dhidden_tile;
  pack_left(rows, D, kLog2E, {hidden_tile, D, 1}, compute, left_hidden);
  for (int64_t v0 = 0; v0 < V; v0 += blocks.width) {
    const int64_t width = std::min(blocks.width, V - v0);
    logits(rows, v0, width);
    parallel_for(rows, blocks.grain(), [&](int64_t first, int64_t last) {
      ATTNEDIT_BEST(cross_entropy_rows)
      (z, width, v0, labels_tile, peak, denominator, label_z, argmax.data + begin, sums, D, first, last);
    });
    if (sums) add_heads(rows, v0, width, sums);
  }

  for (int64_t n = 0; n < rows; ++n) {
    const double log_sum = peak[n] + std::log2(double(denominator[n]));
    nll.data[begin + n] = labels_tile[n] < 0 ? 0 : float((log_sum - label_z[n]) * std::numbers::ln2);
    if (second_pass) peak[n] = float(log_sum);
  }
  if (sums) {
    parallel_for(rows, blocks.grain(), [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        float* row = sums + n * D;
        if (labels_tile[n] < 0) {
          std::fill_n(row, D, 0.f);
          continue;
        }
        const float* target = widened_rows(head, labels_tile[n], labels_tile[n] + 1, left_hidden + n * D);
        ATTNEDIT_BEST(cross_entropy_hidden_row)
        (target, 1 / denominator[n], weights.data[begin + n], row, D);
      }
    });
  }
  if (!second_pass) return;
  if (dhead) pack_right(D, rows, RightOperand::plain(hidden_tile, D), compute, right_hidden);

  for (int64_t v0 = 0; v0 < V; v0 += blocks.width) {
    const int64_t width = std::min(blocks.width, V - v0);
    if (blocks.count > 1) logits(rows, v0, width);
    parallel_for(rows, blocks.grain(), [&](int64_t first, int64_t last) {
      ATTNEDIT_BEST(cross_entropy_gradient_rows)
      (z, width, v0, labels_tile, weights.data + begin, peak, first, last);
    });
    if (dhidden) add_heads(rows, v0, width, dhidden_tile);
    if (!dhead) continue;
    pack_left(width, rows, 1, {z, 1, width}, compute, left_rows);
    packed_product(width, D, rows, left_rows, right_hidden, compute, true, dhead.data + v0 * D, D);
  }
}

}  // namespace

int64_t cross_entropy_workspace(int64_t N, int64_t D, int64_t V) {
  const VocabularyBlocks blocks(N, V);
  return 2 * blocks.logits() + blocks.packed_head(D) + packed_left_size(blocks.tokens, D) +
         packed_right_size(D, blocks.tokens) + 3 * blocks.tokens;
}

Task cross_entropy(View<const float, 2> hidden, WeightView<2> head, View<const int32_t, 1> labels,
                   View<const float, 1> weights, View<float, 1> loss, View<float, 1> nll, View<int32_t, 1> argmax,
                   View<float, 2> dhidden, View<float, 2> dhead, View<float, 1> workspace, Compute compute) {
  constexpr const char* op = "cross_entropy";
  const int64_t N = hidden.dim(0), D = hidden.dim(1), V = head.dim(0);
  ATTNEDIT_CHECK(V > 0 && head.dim(1) == D, op, "head must have shape (V, ", D, ") with V > 0, got ",
                 to_string(head.shape));
  ATTNEDIT_CHECK(labels.dim(0) == N, op, "labels must have shape (", N, ",), got ", to_string(labels.shape));
  ATTNEDIT_CHECK(weights.dim(0) == N, op, "weights must have shape (", N, ",), got ", to_string(weights.shape));
  ATTNEDIT_CHECK(loss.dim(0) == 1, op, "loss must have shape (1,), got ", to_string(loss.shape));
  ATTNEDIT_CHECK(nll.dim(0) == N, op, "nll must have shape (", N, ",), got ", to_string(nll.shape));
  ATTNEDIT_CHECK(argmax.dim(0) == N, op, "argmax must have shape (", N, ",), got ", to_string(argmax.shape));
  ATTNEDIT_CHECK(!dhidden || dhidden.shape == hidden.shape, op, "dhidden must have shape ", to_string(hidden.shape),
                 ", got ", to_string(dhidden.shape));
  ATTNEDIT_CHECK(!dhead || dhead.shape == head.shape, op, "dhead must have shape ", to_string(head.shape), ", got ",
                 to_string(dhead.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= cross_entropy_workspace(N, D, V), op, "workspace must have at least ",
                 cross_entropy_workspace(N, D, V), " floats, got ", workspace.dim(0));
  for (int64_t n = 0; n < N; ++n)
    ATTNEDIT_CHECK(labels.data[n] >= -1 && labels.data[n] < V, op, "labels must be in [0, ", V, ") or -1, got ",
                   labels.data[n], " at ", n);
  return Task([=] {
           const VocabularyBlocks blocks(N, V);
           float* left_rows = workspace.data + blocks.logits();
           float* packed = left_rows + blocks.logits();
           float* left_hidden = packed + blocks.packed_head(D);
           float* right_hidden = left_hidden + packed_left_size(blocks.tokens, D);
           float* peak = right_hidden + packed_right_size(D, blocks.tokens);
           float *denominator = peak + blocks.tokens, *label_z = denominator + blocks.tokens;
           const CrossEntropy run{hidden,       head,   labels,      weights,        nll,    argmax,      dhidden,
                                  dhead,        blocks, compute,     workspace.data, packed, left_hidden, left_rows,
                                  right_hidden, peak,   denominator, label_z};
           for (int64_t n = 0; n < N; n += blocks.tokens) run.tile(n, std::min(blocks.tokens, N - n));
           double total = 0;
           for (int64_t n = 0; n < N; ++n) total += double(weights.data[n]) * nll.data[n];
           loss.data[0] = float(total);
         })
      .needing(2.0 * N * D * V * (1 + (dhidden ? 1 : 0) + (dhead ? 1 : 0)));
}

}  // namespace attnedit::kernels
#endif
