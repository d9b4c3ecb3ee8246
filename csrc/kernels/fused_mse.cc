#include "simd/isa.h"

// Rows [begin, end) of student and teacher (.,D). energies (.,2): a row's error and the teacher's energy, weighted.
ATTNEDIT_LOOPS(void energy_rows(const float* student, const float* teacher, const float* weights, float* energies,
                                int64_t D, int64_t begin, int64_t end);
               void teacher_energy_rows(const float* teacher, const float* weights, float* energies, int64_t D,
                                        int64_t begin, int64_t end);
               void error_rows_backward(const float* student, const float* teacher, const float* weights, float factor,
                                        float* energies, float* dstudent, bool past_caches, int64_t D, int64_t begin,
                                        int64_t end);
               void cosine_rows(const float* student, const float* teacher, const float* weights, float* losses,
                                float* dstudent, bool past_caches, int64_t D, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

template <bool kStream>
void fill_row(float* y, float value, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) put<kStream>(y + i, splat(value));
  for (; i < n; ++i) y[i] = value;
}

// |student - teacher|^2, and with kGradient dstudent = w (student - teacher).
template <bool kGradient, bool kStream>
float squared_distance(const float* student, const float* teacher, float w, float* dstudent, int64_t n) {
  Vec squares{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec difference = load(student + i) - load(teacher + i);
    squares += difference * difference;
    if (!kGradient) continue;
    __builtin_prefetch(student - n + i);  // the row of the next call: see error_backward
    __builtin_prefetch(teacher - n + i);
    put<kStream>(dstudent + i, w * difference);
  }
  if (i < n) {
    const Vec difference = load_part(student + i, n - i) - load_part(teacher + i, n - i);
    squares += difference * difference;
    if (kGradient) store_part(dstudent + i, w * difference, n - i);
  }
  return sum(squares);
}

struct Products {
  float ss, tt, st;
};
Products products(const float* s, const float* t, int64_t n) {
  Vec ss{}, tt{}, st{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec s_i = load(s + i), t_i = load(t + i);
    ss += s_i * s_i, tt += t_i * t_i, st += s_i * t_i;
  }
  if (i < n) {
    const Vec s_i = load_part(s + i, n - i), t_i = load_part(t + i, n - i);
    ss += s_i * s_i, tt += t_i * t_i, st += s_i * t_i;
  }
  return {sum(ss), sum(tt), sum(st)};
}

// From the last row to the first: what the pass before read last is what a cache still has.
template <bool kStream>
void error_backward(const float* student, const float* teacher, const float* weights, float factor, float* energies,
                    float* dstudent, int64_t D, int64_t begin, int64_t end) {
  for (int64_t n = end - 1; n >= begin; --n) {
    const float w = weights[n];
    energies[2 * n] = 0;
    if (w == 0)
      fill_row<kStream>(dstudent + n * D, 0, D);
    else
      energies[2 * n] =
          w * squared_distance<true, kStream>(student + n * D, teacher + n * D, w * factor, dstudent + n * D, D);
  }
  if (kStream) end_stream();
}

template <bool kStream>
void cosine(const float* student, const float* teacher, const float* weights, float* losses, float* dstudent, int64_t D,
            int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float* s_n = student + n * D;
    const float* t_n = teacher + n * D;
    const float w = weights[n];
    float similarity = 0, along_t = 0, along_s = 0;
    if (w != 0) {
      const Products p = products(s_n, t_n, D);
      if (p.ss != 0 && p.tt != 0) {
        const float inverse = 1.f / (std::sqrt(p.ss) * std::sqrt(p.tt));
        similarity = p.st * inverse;
        along_t = -w * inverse;
        along_s = w * similarity / p.ss;
      }
    }
    losses[n] = w == 0 ? 0 : w * (1.f - similarity);
    if (!dstudent) continue;
    float* ds_n = dstudent + n * D;
    if (along_t == 0) {
      fill_row<kStream>(ds_n, 0, D);
      continue;
    }
    int64_t d = 0;
    for (; d + kLanes <= D; d += kLanes) {
      __builtin_prefetch(s_n + D + d);
      __builtin_prefetch(t_n + D + d);
      put<kStream>(ds_n + d, along_t * load(t_n + d) + along_s * load(s_n + d));
    }
    for (; d < D; ++d) ds_n[d] = along_t * t_n[d] + along_s * s_n[d];
  }
  if (kStream) end_stream();
}

}  // namespace

// A masked row is not read: it may hold anything, a NaN too.
void teacher_energy_rows(const float* teacher, const float* weights, float* energies, int64_t D, int64_t begin,
                         int64_t end) {
  for (int64_t n = begin; n < end; ++n)
    energies[2 * n + 1] = weights[n] == 0 ? 0 : weights[n] * dot(teacher + n * D, teacher + n * D, D);
}

void energy_rows(const float* student, const float* teacher, const float* weights, float* energies, int64_t D,
                 int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const float w = weights[n];
    energies[2 * n] = w == 0 ? 0 : w * squared_distance<false, false>(student + n * D, teacher + n * D, 0, nullptr, D);
    teacher_energy_rows(teacher, weights, energies, D, n, n + 1);
  }
}

void error_rows_backward(const float* student, const float* teacher, const float* weights, float factor,
                         float* energies, float* dstudent, bool past_caches, int64_t D, int64_t begin, int64_t end) {
  (past_caches ? error_backward<true> : error_backward<false>)(student, teacher, weights, factor, energies, dstudent, D,
                                                               begin, end);
}

void cosine_rows(const float* student, const float* teacher, const float* weights, float* losses, float* dstudent,
                 bool past_caches, int64_t D, int64_t begin, int64_t end) {
  (past_caches ? cosine<true> : cosine<false>)(student, teacher, weights, losses, dstudent, D, begin, end);
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cmath>

#include "kernels/fused_mse.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "simd/stores.h"

namespace attnedit::kernels {
namespace {

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
  ATTNEDIT_CHECK(eps > 0 && std::isfinite(eps), "fused_mse", "eps must be positive and finite, got ", eps);
  return [=] {
    parallel_rows(N, D, [&](int64_t begin, int64_t end) {
      if (dstudent)  // the rows' errors come with the gradient, which needs the teacher's whole energy first
        ATTNEDIT_BEST(teacher_energy_rows)(teacher.data, weights.data, workspace.data, D, begin, end);
      else
        ATTNEDIT_BEST(energy_rows)(student.data, teacher.data, weights.data, workspace.data, D, begin, end);
    });
    const double scale = column_sum(workspace.data, 2, 1, N);
    if (dstudent) {
      const auto factor = static_cast<float>(2 / (scale + eps));
      const bool past_caches = simd::stores_past_caches(3 * N * D, {dstudent.data}, {D});
      parallel_rows(N, D, [&](int64_t begin, int64_t end) {
        ATTNEDIT_BEST(error_rows_backward)
        (student.data, teacher.data, weights.data, factor, workspace.data, dstudent.data, past_caches, D, N - end,
         N - begin);
      });
    }
    const double error = column_sum(workspace.data, 2, 0, N);
    energy.data[0] = static_cast<float>(error);
    energy.data[1] = static_cast<float>(scale);
    loss.data[0] = static_cast<float>(error / (scale + eps));
  };
}

Task cosine_loss(View<const float, 2> student, View<const float, 2> teacher, View<const float, 1> weights,
                 View<float, 1> loss, View<float, 2> dstudent, View<float, 1> workspace) {
  const int64_t N = student.dim(0), D = student.dim(1);
  check("cosine_loss", student, teacher, weights, loss, dstudent, workspace);
  return [=] {
    const bool past_caches = simd::stores_past_caches(3 * N * D, {dstudent.data}, {D});
    parallel_rows(N, D, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(cosine_rows)
      (student.data, teacher.data, weights.data, workspace.data, dstudent.data, past_caches, D, begin, end);
    });
    loss.data[0] = static_cast<float>(column_sum(workspace.data, 1, 0, N));
  };
}

}  // namespace attnedit::kernels
#endif
