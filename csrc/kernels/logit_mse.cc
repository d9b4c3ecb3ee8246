#include "simd/isa.h"

// Rows [begin, end) of (.,D): differences; then with the products gram d their losses, and the products times `factor`
// and the row's weight as gradients.
ATTNEDIT_LOOPS(void difference_rows(const float* student, const float* teacher, const float* weights,
                                    float* differences, int64_t D, int64_t begin, int64_t end);
               void quadratic_rows(const float* differences, const float* weights, float factor, float* products,
                                   float* losses, int64_t D, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {

// A masked row is not read: it may hold anything, a NaN too.
void difference_rows(const float* student, const float* teacher, const float* weights, float* differences, int64_t D,
                     int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    float* to = differences + n * D;
    if (weights[n] == 0)
      std::memset(to, 0, D * sizeof(float));
    else
      for (int64_t d = 0; d < D; ++d) to[d] = student[n * D + d] - teacher[n * D + d];
  }
}

void quadratic_rows(const float* differences, const float* weights, float factor, float* products, float* losses,
                    int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    float* p_n = products + n * D;
    losses[n] = weights[n] * dot(differences + n * D, p_n, D);
    const float w = weights[n] * factor;
    for (int64_t d = 0; d < D; ++d) p_n[d] *= w;
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/gemm.h"
#include "kernels/logit_mse.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

// Rows of the head that are summed in float; their sums are added in double. Squares of 16-bit numbers fall on halves
// of the last place and are rounded down more often than up, so that long chains of them drift.
constexpr int64_t kHeadRows = 128;

}  // namespace

int64_t gram_workspace(int64_t V, int64_t D) {
  const int64_t rows = std::min(V, kHeadRows);
  return 2 * D * D + gemm_scratch(D, D, rows) + rows * D;
}

Task gram(WeightView<2> head, View<float, 2> gram, View<float, 1> workspace) {
  const int64_t V = head.dim(0), D = head.dim(1);
  ATTNEDIT_CHECK((gram.shape == std::array{D, D}), "gram", "gram must have shape (", D, ", ", D, "), got ",
                 to_string(gram.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= gram_workspace(V, D), "gram", "workspace must have ", gram_workspace(V, D),
                 " floats or more, got ", workspace.dim(0));
  return Task([=] {
           auto* const total = reinterpret_cast<double*>(workspace.data);
           float* const scratch = workspace.data + 2 * D * D;
           float* const widened = scratch + gemm_scratch(D, D, std::min(V, kHeadRows));
           std::fill_n(total, D * D, 0.);
           for (int64_t v = 0; v < V; v += kHeadRows) {
             const int64_t rows = std::min(kHeadRows, V - v);
             const float* part = widened_rows(head, v, v + rows, widened);
             gemm(D, D, rows, 1, {part, 1, D}, RightOperand::plain(part, D), Compute::kFloat32, false, gram.data, D,
                  scratch);
             parallel_for(D * D, kGrain, [&](int64_t begin, int64_t end) {
               for (int64_t i = begin; i < end; ++i) total[i] += gram.data[i];
             });
           }
           std::copy_n(total, D * D, gram.data);
         })
      .needing(2.0 * V * D * D);
}

int64_t logit_mse_workspace(int64_t N, int64_t D) { return gemm_scratch(N, D, D) + 2 * N * D + N; }

Task logit_mse(View<const float, 2> student, View<const float, 2> teacher, View<const float, 2> gram, int64_t V,
               View<const float, 1> weights, View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace) {
  const char* op = "logit_mse";
  const int64_t N = student.dim(0), D = student.dim(1);
  ATTNEDIT_CHECK(teacher.shape == student.shape, op, "teacher must have shape ", to_string(student.shape), ", got ",
                 to_string(teacher.shape));
  ATTNEDIT_CHECK((gram.shape == std::array{D, D}), op, "gram must have shape (", D, ", ", D, "), got ",
                 to_string(gram.shape));
  ATTNEDIT_CHECK(V >= 1, op, "vocabulary must be 1 or more, got ", V);
  ATTNEDIT_CHECK(weights.dim(0) == N, op, "weights must have shape (", N, ",), got ", to_string(weights.shape));
  ATTNEDIT_CHECK(loss.dim(0) == 1, op, "loss must have shape (1,), got ", to_string(loss.shape));
  ATTNEDIT_CHECK(!dstudent || dstudent.shape == student.shape, op, "dstudent must have shape ",
                 to_string(student.shape), ", got ", to_string(dstudent.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= logit_mse_workspace(N, D), op, "workspace must have ", logit_mse_workspace(N, D),
                 " floats or more, got ", workspace.dim(0));
  return Task([=] {
           float* const differences = workspace.data + gemm_scratch(N, D, D);
           float* const losses = differences + N * D;
           float* const products = dstudent ? dstudent.data : losses + N;
           parallel_rows(N, D, [&](int64_t begin, int64_t end) {
             ATTNEDIT_BEST(difference_rows)
             (student.data, teacher.data, weights.data, differences, D, begin, end);
           });
           gemm(N, D, D, 1, {differences, D, 1}, RightOperand::plain(gram.data, D), Compute::kFloat32, false, products,
                D, workspace.data);
           const float factor = 2.f / static_cast<float>(V);
           parallel_rows(N, D, [&](int64_t begin, int64_t end) {
             ATTNEDIT_BEST(quadratic_rows)(differences, weights.data, factor, products, losses, D, begin, end);
           });
           double total = 0;
           for (int64_t n = 0; n < N; ++n) total += losses[n];
           loss.data[0] = static_cast<float>(total / static_cast<double>(V));
         })
      .needing(2.0 * N * D * D);
}

}  // namespace attnedit::kernels
#endif
