#include "simd/isa.h"

// Rows [begin, end) of student and teacher (.,D). energies (.,2): a row's error and the teacher's energy, weighted.
ATTNEDIT_LOOPS(void energy_rows(const float* student, const float* teacher, const float* weights, float* energies,
                                int64_t D, int64_t begin, int64_t end);
               void error_rows_backward(const float* student, const float* teacher, const float* weights, float factor,
                                        float* dstudent, int64_t D, int64_t begin, int64_t end);
               void cosine_rows(const float* student, const float* teacher, const float* weights, float* losses,
                                float* dstudent, int64_t D, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

float squared_distance(const float* a, const float* b, int64_t n) {
  Vec squares{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec difference = load(a + i) - load(b + i);
    squares += difference * difference;
  }
  if (i < n) {
    const Vec difference = load_part(a + i, n - i) - load_part(b + i, n - i);
    squares += difference * difference;
  }
  return sum(squares);
}

}  // namespace

// A masked row is not read: it may hold anything, a NaN too.
void energy_rows(const float* student, const float* teacher, const float* weights, float* energies, int64_t D,
                 int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float w = weights[n];
    energies[2 * n] = w == 0 ? 0 : w * squared_distance(student + n * D, teacher + n * D, D);
    energies[2 * n + 1] = w == 0 ? 0 : w * dot(teacher + n * D, teacher + n * D, D);
  }
}

void error_rows_backward(const float* student, const float* teacher, const float* weights, float factor,
                         float* dstudent, int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* s_n = student + n * D;
    const float* t_n = teacher + n * D;
    float* ds_n = dstudent + n * D;
    const float w = weights[n] * factor;
    if (weights[n] == 0)
      for (int64_t d = 0; d < D; ++d) ds_n[d] = 0;
    else
      for (int64_t d = 0; d < D; ++d) ds_n[d] = w * (s_n[d] - t_n[d]);
  }
}

void cosine_rows(const float* student, const float* teacher, const float* weights, float* losses, float* dstudent,
                 int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* s_n = student + n * D;
    const float* t_n = teacher + n * D;
    const float w = weights[n];
    float cosine = 0, along_t = 0, along_s = 0;
    if (w != 0) {
      const float ss = dot(s_n, s_n, D), tt = dot(t_n, t_n, D);
      if (ss != 0 && tt != 0) {
        const float inverse = 1.f / (std::sqrt(ss) * std::sqrt(tt));
        cosine = dot(s_n, t_n, D) * inverse;
        along_t = -w * inverse;
        along_s = w * cosine / ss;
      }
    }
    losses[n] = w == 0 ? 0 : w * (1.f - cosine);
    if (!dstudent) continue;
    float* ds_n = dstudent + n * D;
    if (along_t == 0)
      for (int64_t d = 0; d < D; ++d) ds_n[d] = 0;
    else
      for (int64_t d = 0; d < D; ++d) ds_n[d] = along_t * t_n[d] + along_s * s_n[d];
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include "kernels/fused_mse.h"
#include "runtime/check.h"
#include "runtime/parallel.h"

namespace attnedit::kernels {
namespace {

constexpr int64_t kGrain = 1 << 15;  // numbers that are worth a second thread
int64_t rows_per_grain(int64_t D) { return kGrain / std::max<int64_t>(D, 1) + 1; }

void check(const char* op, View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights,
           View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace) {
  const int64_t N = student.dim(0);
  ATTNEDIT_CHECK(teacher.shape == student.shape, op, "teacher must have shape ", to_string(student.shape), ", got ",
                 to_string(teacher.shape));
  ATTNEDIT_CHECK(weights.dim(0) == N, op, "weights must have shape (", N, ",), got ", to_string(weights.shape));
  ATTNEDIT_CHECK(loss.dim(0) == 1, op, "loss must have shape (1,), got ", to_string(loss.shape));
  ATTNEDIT_CHECK(!dstudent || dstudent.shape == student.shape, op, "dstudent must have shape ",
                 to_string(student.shape), ", got ", to_string(dstudent.shape));
  ATTNEDIT_CHECK(workspace.dim(0) >= fused_mse_workspace(N), op, "workspace must have ", fused_mse_workspace(N),
                 " floats or more, got ", workspace.dim(0));
}

// Column `column` of rows (N,stride), in double and in order.
double column_sum(const float* rows, int64_t stride, int64_t column, int64_t N) {
  double total = 0;
  for (int64_t n = 0; n < N; ++n) total += rows[n * stride + column];
  return total;
}

}  // namespace

int64_t fused_mse_workspace(int64_t N) { return 2 * N; }

Task fused_mse(View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights, float eps,
               View<float, 1> loss, View<float, 1> energy, View<float, 2> dstudent, View<float, 1> workspace) {
  const int64_t N = student.dim(0), D = student.dim(1);
  check("fused_mse", student, teacher, weights, loss, dstudent, workspace);
  ATTNEDIT_CHECK(energy.dim(0) == 2, "fused_mse", "energy must have shape (2,), got ", to_string(energy.shape));
  ATTNEDIT_CHECK(eps > 0, "fused_mse", "eps must be positive, got ", eps);
  return [=] {
    parallel_for(N, rows_per_grain(D), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(energy_rows)(student.data, teacher.data, weights.data, workspace.data, D, begin, end);
    });
    const double error = column_sum(workspace.data, 2, 0, N), scale = column_sum(workspace.data, 2, 1, N);
    energy.data[0] = static_cast<float>(error);
    energy.data[1] = static_cast<float>(scale);
    loss.data[0] = static_cast<float>(error / (scale + eps));
    if (!dstudent) return;
    const auto factor = static_cast<float>(2 / (scale + eps));
    parallel_for(N, rows_per_grain(D), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(error_rows_backward)
      (student.data, teacher.data, weights.data, factor, dstudent.data, D, begin, end);
    });
  };
}

Task cosine_loss(View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights,
                 View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace) {
  const int64_t N = student.dim(0), D = student.dim(1);
  check("cosine_loss", student, teacher, weights, loss, dstudent, workspace);
  return [=] {
    parallel_for(N, rows_per_grain(D), [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(cosine_rows)
      (student.data, teacher.data, weights.data, workspace.data, dstudent.data, D, begin, end);
    });
    loss.data[0] = static_cast<float>(column_sum(workspace.data, 1, 0, N));
  };
}

}  // namespace attnedit::kernels
#endif
