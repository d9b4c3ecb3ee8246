#include "simd/isa.h"

// Rows [begin, end) of two blocks of logits a, b (.,width) in base 2: exp(logit / temperature) = 2^z.
ATTNEDIT_LOOPS(void divergence_rows(float* a, float* b, int64_t width, bool first_block, float* peak_a, float* sum_a,
                                    float* peak_b, float* sum_b, float* cross, float* heads_a, float* heads_b,
                                    int64_t D, int64_t begin, int64_t end);
               void jsd_rows(const float* q, const float* p, int64_t width, bool first_block, const float* log_q,
                             const float* log_p, float* divergence, float* mean, int64_t begin, int64_t end);
               void forward_gradient_rows(float* q, const float* p, int64_t width, const float* log_q,
                                          const float* log_p, const float* scale, int64_t begin, int64_t end);
               void reverse_gradient_rows(float* q, const float* p, int64_t width, const float* log_q,
                                          const float* log_p, const float* scale, const float* mean, int64_t begin,
                                          int64_t end);
               void jsd_gradient_rows(float* q, const float* p, int64_t width, const float* log_q, const float* log_p,
                                      const float* scale, const float* mean, int64_t begin, int64_t end);
               void hidden_gradient_row(const float* heads_p, float scale_q, float scale_p, float* dstudent,
                                        int64_t D);)

#ifdef ATTNEDIT_ISA
#include "simd/vec.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// A difference of logits that is only ever multiplied by a probability: where that is 0, the product must be 0 too.
inline Vec bounded(Vec x) {
  const Vec low = max(x, splat(-1e30f));
  return low < 1e30f ? low : splat(1e30f);
}

// log2(1 + 2^d) = max(d, 0) + log2(1 + t), t = 2^-|d|; log(1 + t) = 2 atanh(t / (2 + t)), to 3e-8.
inline Vec log2_one_plus_exp2(Vec d) {
  const Vec t = exp2(d > 0 ? -d : d);
  const Vec s = t / (2 + t), s2 = s * s;
  Vec series = splat(1 / 13.f);
  series = series * s2 + 1 / 11.f;
  series = series * s2 + 1 / 9.f;
  series = series * s2 + 1 / 7.f;
  series = series * s2 + 1 / 5.f;
  series = series * s2 + 1 / 3.f;
  series = series * s2 + 1.f;
  return max(d, Vec{}) + 2 * kLog2E * s * series;
}

// Calls body(v, load, store) for the vectors of a row; the last one may be short, and is filled with `fill`.
template <class Body>
inline __attribute__((always_inline)) void each_vector(int64_t width, float fill, const Body& body) {
  int64_t v = 0;
  for (; v + kLanes <= width; v += kLanes)
    body(
        v, [](const float* p) __attribute__((always_inline)) { return load(p); },
        [](float* p, Vec x) __attribute__((always_inline)) { store(p, x); });
  const int64_t rest = width - v;
  if (rest > 0)
    body(
        v, [=](const float* p) __attribute__((always_inline)) { return load_part(p, rest, fill); },
        [=](float* p, Vec x) __attribute__((always_inline)) { store_part(p, x, rest); });
}

inline void rescale_row(float* row, float factor, int64_t D) {
  if (factor != 1)
    for (int64_t d = 0; d < D; ++d) row[d] *= factor;
}

}  // namespace

// The running peaks m and sums  sum_a = sum_v 2^(a_v - m_a),  cross = sum_v 2^(a_v - m_a) (a_v - b_v).  Where heads_a
// and heads_b (.,D) are given, a and b become 2^(a - m), ready for the product with the head, and what heads_a and
// heads_b hold of earlier blocks is brought to the new peaks.
void divergence_rows(float* a, float* b, int64_t width, bool first_block, float* peak_a, float* sum_a, float* peak_b,
                     float* sum_b, float* cross, float* heads_a, float* heads_b, int64_t D, int64_t begin,
                     int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    float *a_n = a + n * width, *b_n = b + n * width;
    const float before_a = first_block ? -INFINITY : peak_a[n], before_b = first_block ? -INFINITY : peak_b[n];
    Vec top_a = splat(before_a), top_b = splat(before_b);
    each_vector(
        width, -INFINITY, [&](int64_t v, auto get, auto) __attribute__((always_inline)) {
          top_a = max(top_a, get(a_n + v));
          top_b = max(top_b, get(b_n + v));
        });
    const float m_a = max_lane(top_a), m_b = max_lane(top_b);
    Vec total_a{}, total_b{}, total_cross{};
    each_vector(
        width, -INFINITY, [&](int64_t v, auto get, auto put) __attribute__((always_inline)) {
          const Vec z_a = get(a_n + v), z_b = get(b_n + v);
          const Vec e_a = exp2(z_a - m_a), e_b = exp2(z_b - m_b);
          total_a += e_a;
          total_b += e_b;
          total_cross += e_a * bounded(z_a - z_b);
          if (heads_a) {
            put(a_n + v, e_a);
            put(b_n + v, e_b);
          }
        });
    const float rescale_a = first_block ? 0 : exp2(splat(before_a - m_a))[0];
    const float rescale_b = first_block ? 0 : exp2(splat(before_b - m_b))[0];
    sum_a[n] = sum(total_a) + (first_block ? 0 : sum_a[n] * rescale_a);
    sum_b[n] = sum(total_b) + (first_block ? 0 : sum_b[n] * rescale_b);
    cross[n] = sum(total_cross) + (first_block ? 0 : cross[n] * rescale_a);
    peak_a[n] = m_a;
    peak_b[n] = m_b;
    if (heads_a && !first_block) {
      rescale_row(heads_a + n * D, rescale_a, D);
      rescale_row(heads_b + n * D, rescale_b, D);
    }
  }
}

// With d = log2(q / p):  log2(p / m) = 1 - log2(1 + 2^d),  log2(q / m) = 1 - log2(1 + 2^-d).
//   mean += sum_v q_v log2(q_v / m_v)     divergence += sum_v p_v log2(p_v / m_v) + q_v log2(q_v / m_v)
void jsd_rows(const float* q, const float* p, int64_t width, bool first_block, const float* log_q, const float* log_p,
              float* divergence, float* mean, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float *q_n = q + n * width, *p_n = p + n * width;
    Vec of_p{}, of_q{};
    each_vector(
        width, -INFINITY, [&](int64_t v, auto get, auto) __attribute__((always_inline)) {
          const Vec lq = get(q_n + v) - log_q[n], lp = get(p_n + v) - log_p[n], d = bounded(lq - lp);
          of_p += exp2(lp) * (1 - log2_one_plus_exp2(d));
          of_q += exp2(lq) * (1 - log2_one_plus_exp2(-d));
        });
    mean[n] = sum(of_q) + (first_block ? 0 : mean[n]);
    divergence[n] = sum(of_p) + sum(of_q) + (first_block ? 0 : divergence[n]);
  }
}

// scale = weight temperature.  q becomes dloss/dlogits = scale (q - p).
void forward_gradient_rows(float* q, const float* p, int64_t width, const float* log_q, const float* log_p,
                           const float* scale, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    each_vector(
        width, 0, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
          const int64_t v = n * width + i;
          put(q + v, scale[n] * (exp2(get(q + v) - log_q[n]) - exp2(get(p + v) - log_p[n])));
        });
}

// q becomes scale q (log(q / p) - sum_v q_v log(q_v / p_v));  mean is that sum, in base 2.
void reverse_gradient_rows(float* q, const float* p, int64_t width, const float* log_q, const float* log_p,
                           const float* scale, const float* mean, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    each_vector(
        width, 0, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
          const int64_t v = n * width + i;
          const Vec lq = get(q + v) - log_q[n], lp = get(p + v) - log_p[n];
          put(q + v, scale[n] * kLn2 * exp2(lq) * (bounded(lq - lp) - mean[n]));
        });
}

// q becomes scale q (log(q / m) - sum_v q_v log(q_v / m_v)) / 2.
void jsd_gradient_rows(float* q, const float* p, int64_t width, const float* log_q, const float* log_p,
                       const float* scale, const float* mean, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    each_vector(
        width, 0, [&](int64_t i, auto get, auto put) __attribute__((always_inline)) {
          const int64_t v = n * width + i;
          const Vec lq = get(q + v) - log_q[n], lp = get(p + v) - log_p[n];
          const Vec pull = 1 - log2_one_plus_exp2(bounded(lp - lq)) - mean[n];
          put(q + v, scale[n] * (kLn2 / 2) * exp2(lq) * pull);
        });
}

// dstudent holds sum_v 2^(q_v - peak) head_v, heads_p the same of the teacher.
void hidden_gradient_row(const float* heads_p, float scale_q, float scale_p, float* dstudent, int64_t D) {
  for (int64_t d = 0; d < D; ++d) dstudent[d] = scale_q * dstudent[d] - scale_p * heads_p[d];
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>
#include <numbers>

#include "kernels/fused_kl.h"
#include "kernels/gemm.h"
#include "kernels/vocabulary_blocks.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

// Per token: peaks and sums of both, log-sum-exps in place of the peaks, and a column each of the rest.
enum Column { kPeakQ, kSumQ, kPeakP, kSumP, kCross, kMean, kScale, kColumns };

struct FusedKl {
  View<const float, 2> student, teacher;
  WeightView<2> student_head, teacher_head;
  View<const float, 1> weights;
  FusedKlOptions options;
  View<float, 1> divergences;
  View<float, 2> dstudent, dhead;
  VocabularyBlocks blocks;
  // packed: the head's block; left_student, left_teacher: the hidden states, in base 2; left_rows: a block of q or p.
  float *q, *p, *packed, *left_student, *left_teacher, *left_rows, *heads_p, *columns;

  float* column(Column c) const { return columns + c * blocks.tokens; }
  bool forward() const { return options.divergence == Divergence::kForward; }
  bool jsd() const { return options.divergence == Divergence::kJsd; }
  bool same_head() const { return student_head.data == teacher_head.data && student_head.dtype == teacher_head.dtype; }

  void tile(int64_t begin, int64_t rows) const;
  void logits(int64_t rows, int64_t v0, int64_t width) const;
  void add_heads(const float* probabilities, int64_t rows, int64_t v0, int64_t width, float* sums) const;
  void finish_divergences(int64_t begin, int64_t rows) const;
  template <class Rows>
  void each_block(int64_t rows, bool kept, const Rows& body) const;
};

// Both blocks of logits at v0.
void FusedKl::logits(int64_t rows, int64_t v0, int64_t width) const {
  const int64_t D = student.dim(1);
  pack_right(width, D, transposed_rows(teacher_head, v0), options.compute, packed);
  packed_product(rows, width, D, left_teacher, packed, options.compute, false, p, width);
  if (!same_head()) pack_right(width, D, transposed_rows(student_head, v0), options.compute, packed);
  packed_product(rows, width, D, left_student, packed, options.compute, false, q, width);
}

// sums (+)= probabilities head, whose rows at v0 are packed.
void FusedKl::add_heads(const float* probabilities, int64_t rows, int64_t v0, int64_t width, float* sums) const {
  const int64_t D = student.dim(1);
  pack_left(rows, width, 1, {probabilities, width, 1}, options.compute, left_rows);
  packed_product(rows, D, width, left_rows, packed, options.compute, v0 > 0, sums, D);
}

// body(v0, width) with the logits of each block in q and p; where they are kept, the one block's lie there still.
template <class Rows>
void FusedKl::each_block(int64_t rows, bool kept, const Rows& body) const {
  const int64_t V = student_head.dim(0);
  for (int64_t v0 = 0; v0 < V; v0 += blocks.width) {
    const int64_t width = std::min(blocks.width, V - v0);
    if (!kept) logits(rows, v0, width);
    body(v0, width);
  }
}

// Tokens [begin, begin + rows).
//   dloss/dhidden = weight temperature sum_v (q_v - p_v) head_v
// for the forward divergence: one pass carries sum_v 2^(q_v - peak) head_v and the same of p along. Otherwise a pass
// finds the log-sum-exps and a later one the gradient by the logits; that costs no more logits when the block that
// the first pass left is the whole vocabulary.
void FusedKl::tile(int64_t begin, int64_t rows) const {
  const int64_t D = student.dim(1), grain = blocks.grain();
  const bool gradient = dstudent || dhead;
  const bool one_pass = gradient && forward() && !dhead && blocks.count > 1, kept = blocks.count == 1;
  float* heads_q = one_pass ? dstudent.data + begin * D : nullptr;
  const float to_base_2 = std::numbers::log2e_v<float> / options.temperature;
  pack_left(rows, D, to_base_2, {student.data + begin * D, D, 1}, options.compute, left_student);
  pack_left(rows, D, to_base_2, {teacher.data + begin * D, D, 1}, options.compute, left_teacher);
  each_block(rows, false, [&](int64_t v0, int64_t width) {
    parallel_for(rows, grain, [&](int64_t first, int64_t last) {
      const auto loop = ATTNEDIT_BEST(divergence_rows);
      if (options.divergence == Divergence::kReverse)
        loop(q, p, width, v0 == 0, column(kPeakQ), column(kSumQ), column(kPeakP), column(kSumP), column(kCross),
             nullptr, nullptr, D, first, last);
      else
        loop(p, q, width, v0 == 0, column(kPeakP), column(kSumP), column(kPeakQ), column(kSumQ), column(kCross),
             one_pass ? heads_p : nullptr, heads_q, D, first, last);
    });
    if (!one_pass) return;
    pack_right(D, width, plain_rows(student_head, v0), options.compute, packed);
    add_heads(q, rows, v0, width, heads_q);
    add_heads(p, rows, v0, width, heads_p);
  });
  finish_divergences(begin, rows);

  const float *log_q = column(kPeakQ), *log_p = column(kPeakP), *scale = column(kScale), *mean = column(kMean);
  if (jsd())
    each_block(rows, kept, [&](int64_t v0, int64_t width) {
      parallel_for(rows, grain, [&](int64_t first, int64_t last) {
        ATTNEDIT_BEST(jsd_rows)(q, p, width, v0 == 0, log_q, log_p, column(kCross), column(kMean), first, last);
      });
    });
  for (int64_t n = 0; n < rows; ++n) {
    const double bits = jsd() ? column(kCross)[n] / 2 : column(kMean)[n];
    divergences.data[begin + n] = float(bits * std::numbers::ln2 * options.temperature * options.temperature);
  }
  if (one_pass) {
    parallel_for(rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) ATTNEDIT_BEST(hidden_gradient_row)
      (heads_p + n * D, scale[n] / column(kSumQ)[n], scale[n] / column(kSumP)[n], heads_q + n * D, D);
    });
    return;
  }
  if (!gradient) return;
  float* const right_student = heads_p;  // which only one_pass needs
  if (dhead) pack_right(D, rows, RightOperand::plain(student.data + begin * D, D), options.compute, right_student);
  each_block(rows, kept, [&](int64_t v0, int64_t width) {
    parallel_for(rows, grain, [&](int64_t first, int64_t last) {
      if (forward())
        ATTNEDIT_BEST(forward_gradient_rows)(q, p, width, log_q, log_p, scale, first, last);
      else if (jsd())
        ATTNEDIT_BEST(jsd_gradient_rows)(q, p, width, log_q, log_p, scale, mean, first, last);
      else
        ATTNEDIT_BEST(reverse_gradient_rows)(q, p, width, log_q, log_p, scale, mean, first, last);
    });
    if (dstudent) {
      pack_right(D, width, plain_rows(student_head, v0), options.compute, packed);
      add_heads(q, rows, v0, width, dstudent.data + begin * D);
    }
    if (!dhead) return;
    pack_left(width, rows, 1, {q, 1, width}, options.compute, left_rows);
    packed_product(width, D, rows, left_rows, right_student, options.compute, true, dhead.data + v0 * D, D);
  });
}

// The log-sum-exps, and  KL(a || b) = cross / sum_a - log sum_a + log sum_b  for whichever pair was asked, in bits.
void FusedKl::finish_divergences(int64_t begin, int64_t rows) const {
  for (int64_t n = 0; n < rows; ++n) {
    const double log_q = column(kPeakQ)[n] + std::log2(double(column(kSumQ)[n]));
    const double log_p = column(kPeakP)[n] + std::log2(double(column(kSumP)[n]));
    const double cross = column(kCross)[n];
    column(kMean)[n] =
        float(forward() ? cross / column(kSumP)[n] - log_p + log_q : cross / column(kSumQ)[n] - log_q + log_p);
    column(kPeakQ)[n] = float(log_q);
    column(kPeakP)[n] = float(log_p);
    column(kScale)[n] = weights.data[begin + n] * options.temperature;
  }
}

}  // namespace

int64_t fused_kl_workspace(int64_t N, int64_t D, int64_t V, FusedKlOptions) {
  const VocabularyBlocks blocks(N, V);
  return 3 * blocks.logits() + blocks.packed_head(D) + 2 * packed_left_size(blocks.tokens, D) +
         packed_right_size(D, blocks.tokens) + kColumns * blocks.tokens;
}

Task fused_kl(View<const float, 2> student, WeightView<2> student_head, View<const float, 2> teacher,
              WeightView<2> teacher_head, View<const float, 1> weights, FusedKlOptions options, View<float, 1> loss,
              View<float, 1> divergences, View<float, 2> dstudent, View<float, 2> dhead, View<float, 1> workspace) {
  constexpr const char* op = "fused_kl";
  const int64_t N = student.dim(0), D = student.dim(1), V = student_head.dim(0);
  // Divergences shrink with its square and are multiplied by it again: beyond this only their rounding would be left.
  ATTNEDIT_CHECK(options.temperature > 0 && options.temperature <= 100, op,
                 "temperature must be positive and at most 100, got ", options.temperature);
  ATTNEDIT_CHECK(V > 0 && student_head.dim(1) == D, op, "student_head must have shape (V, ", D, ") with V > 0, got ",
                 to_string(student_head.shape));
  ATTNEDIT_CHECK(teacher.shape == student.shape, op, "teacher must have shape ", to_string(student.shape), ", got ",
                 to_string(teacher.shape));
  ATTNEDIT_CHECK(teacher_head.shape == student_head.shape, op, "teacher_head must have shape ",
                 to_string(student_head.shape), ", got ", to_string(teacher_head.shape));
  ATTNEDIT_CHECK(weights.dim(0) == N, op, "weights must have shape (", N, ",), got ", to_string(weights.shape));
  ATTNEDIT_CHECK(loss.dim(0) == 1, op, "loss must have shape (1,), got ", to_string(loss.shape));
  ATTNEDIT_CHECK(divergences.dim(0) == N, op, "divergences must have shape (", N, ",), got ",
                 to_string(divergences.shape));
  ATTNEDIT_CHECK(!dstudent || dstudent.shape == student.shape, op, "dstudent must have shape ",
                 to_string(student.shape), ", got ", to_string(dstudent.shape));
  ATTNEDIT_CHECK(!dhead || dhead.shape == student_head.shape, op, "dhead must have shape ",
                 to_string(student_head.shape), ", got ", to_string(dhead.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= fused_kl_workspace(N, D, V, options), op, "workspace must have at least ",
                 fused_kl_workspace(N, D, V, options), " floats, got ", workspace.dim(0));
  // Two products for the logits; of the gradients, each one more.
  return Task([=] {
           const VocabularyBlocks blocks(N, V);
           float* q = workspace.data;
           float* p = q + blocks.logits();
           float* left_rows = p + blocks.logits();
           float* packed = left_rows + blocks.logits();
           float* left_student = packed + blocks.packed_head(D);
           float* left_teacher = left_student + packed_left_size(blocks.tokens, D);
           float* heads_p = left_teacher + packed_left_size(blocks.tokens, D);
           float* columns = heads_p + packed_right_size(D, blocks.tokens);
           const FusedKl run{student,     teacher,      student_head, teacher_head, weights, options,
                             divergences, dstudent,     dhead,        blocks,       q,       p,
                             packed,      left_student, left_teacher, left_rows,    heads_p, columns};
           for (int64_t n = 0; n < N; n += blocks.tokens) run.tile(n, std::min(blocks.tokens, N - n));
           double total = 0;
           for (int64_t n = 0; n < N; ++n) total += double(weights.data[n]) * divergences.data[n];
           loss.data[0] = float(total);
         })
      .needing(2.0 * N * D * V * (2 + (dstudent ? 1 : 0) + (dhead ? 1 : 0)));
}

}  // namespace attnedit::kernels
#endif
