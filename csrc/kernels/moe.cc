#include "simd/isa.h"

// Tokens, or rows, [begin, end).
ATTNEDIT_LOOPS(void route_tokens(const float* logits, int64_t E, int64_t k, bool normalize, float* weights,
                                 int32_t* chosen, int64_t begin, int64_t end);
               void route_tokens_backward(const float* dweights, const float* logits, const int32_t* chosen, int64_t E,
                                          int64_t k, bool normalize, float* dlogits, int64_t begin, int64_t end);
               void combine_tokens(const float* x, const int32_t* rows, const float* weights, float* y, int64_t k,
                                   int64_t D, int64_t begin, int64_t end);
               void weigh_rows_backward(const float* h, const float* weights, const int32_t* slots, float* dh,
                                        float* dweights, int64_t F, int64_t begin, int64_t end);)

#ifdef ATTNEDIT_ISA
#include "simd/rows.h"

namespace attnedit::kernels::ATTNEDIT_ISA {
namespace {

// log(sum(exp(row)))'s two parts: the greatest number, and the sum of exp(x - greatest).
void softmax_scale(const float* row, int64_t E, float* greatest, float* sum_of_exp) {
  Vec top = splat(row[0]);
  int64_t e = 0;
  for (; e + kLanes <= E; e += kLanes) top = max(top, load(row + e));
  if (e < E) top = max(top, load_part(row + e, E - e, row[0]));
  *greatest = max_lane(top);
  Vec total{};
  for (e = 0; e + kLanes <= E; e += kLanes) total += exp(load(row + e) - *greatest);
  float rest = 0;
  if (e < E) {
    float last[kLanes];
    store(last, exp(load_part(row + e, E - e, *greatest) - *greatest));
    for (int64_t i = 0; i < E - e; ++i) rest += last[i];
  }
  *sum_of_exp = sum(total) + rest;
}

float exp_of(float x) { return exp(splat(x))[0]; }

// The k greatest in descending order. A number that is not greater than one before it, or is no number, stays behind
// it: there are always k different ones. Returns 1, or NaN where one of the numbers is NaN.
float choose(const float* row, int64_t E, int64_t k, int32_t* chosen) {
  int64_t found = 0;
  float no_nan = 1;
  for (int64_t e = 0; e < E; ++e) {
    if (row[e] != row[e]) no_nan = row[e];
    int64_t at = found;
    while (at > 0 && row[e] > row[chosen[at - 1]]) --at;
    if (at == k) continue;
    if (found < k) ++found;
    for (int64_t i = found - 1; i > at; --i) chosen[i] = chosen[i - 1];
    chosen[at] = static_cast<int32_t>(e);
  }
  return no_nan;
}

}  // namespace

void route_tokens(const float* logits, int64_t E, int64_t k, bool normalize, float* weights, int32_t* chosen,
                  int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float* row = logits + t * E;
    const float no_nan = choose(row, E, k, chosen + t * k);
    float greatest, whole, picked = 0;
    softmax_scale(row, E, &greatest, &whole);
    for (int64_t j = 0; j < k; ++j) picked += weights[t * k + j] = exp_of(row[chosen[t * k + j]] - greatest);
    const float factor = no_nan / (normalize ? picked : whole);
    for (int64_t j = 0; j < k; ++j) weights[t * k + j] *= factor;
  }
}

// With p = softmax(logits) over the experts, or over the chosen ones where their weights were divided by their sum:
//   dlogits = p * (d - <p, d>),   d = dweights at the chosen ones, 0 elsewhere
void route_tokens_backward(const float* dweights, const float* logits, const int32_t* chosen, int64_t E, int64_t k,
                           bool normalize, float* dlogits, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const float *row = logits + t * E, *d = dweights + t * k;
    const int32_t* picks = chosen + t * k;
    float* dx = dlogits + t * E;
    float greatest, whole, picked = 0, inner = 0;
    softmax_scale(row, E, &greatest, &whole);
    for (int64_t j = 0; j < k; ++j) {
      const float p = exp_of(row[picks[j]] - greatest);
      picked += p;
      inner += p * d[j];
    }
    const float factor = 1 / (normalize ? picked : whole);
    inner *= factor;
    if (normalize) {
      for (int64_t e = 0; e < E; ++e) dx[e] = 0;
    } else {
      int64_t e = 0;
      for (; e + kLanes <= E; e += kLanes) store(dx + e, exp(load(row + e) - greatest) * (-inner * factor));
      if (e < E) store_part(dx + e, exp(load_part(row + e, E - e) - greatest) * (-inner * factor), E - e);
    }
    for (int64_t j = 0; j < k; ++j) dx[picks[j]] = exp_of(row[picks[j]] - greatest) * factor * (d[j] - inner);
  }
}

void combine_tokens(const float* x, const int32_t* rows, const float* weights, float* y, int64_t k, int64_t D,
                    int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t)
    for (int64_t d = 0; d < D; d += kLanes) {
      const int64_t count = D - d < kLanes ? D - d : kLanes;
      Vec total{};
      for (int64_t j = 0; j < k; ++j) {
        const float* from = x + rows[t * k + j] * D + d;
        total += (weights ? weights[t * k + j] : 1.f) * (count == kLanes ? load(from) : load_part(from, count));
      }
      count == kLanes ? store(y + t * D + d, total) : store_part(y + t * D + d, total, count);
    }
}

void weigh_rows_backward(const float* h, const float* weights, const int32_t* slots, float* dh, float* dweights,
                         int64_t F, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    dweights[slots[r]] = dot(dh + r * F, h + r * F, F);
    const float weight = weights[slots[r]];
    for (int64_t f = 0; f < F; ++f) dh[r * F + f] *= weight;
  }
}

}  // namespace attnedit::kernels::ATTNEDIT_ISA

#else
#include <cstring>

#include "kernels/moe.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "tensor/check_shape.h"

namespace attnedit::kernels {
namespace {

// The numbers of another kernel: a wrong one would be an address.
void check_range(const char* op, const char* name, const int32_t* numbers, int64_t count, int64_t most) {
  for (int64_t i = 0; i < count; ++i)
    ATTNEDIT_CHECK(numbers[i] >= 0 && numbers[i] < most, op, name, " must be in [0, ", most, "), got ", numbers[i]);
}

// Slots in the order of their experts, by counting.
void sort_slots(int64_t E, const Routes& r) {
  const int64_t count = r.chosen.size();
  std::memset(r.offsets.data, 0, (E + 1) * sizeof(int32_t));
  for (int64_t s = 0; s < count; ++s) ++r.offsets.data[r.chosen.data[s] + 1];
  for (int64_t e = 0; e < E; ++e) r.offsets.data[e + 1] += r.offsets.data[e];
  for (int64_t s = 0; s < count; ++s) {  // offsets move to their experts' ends while rows are given out, and back
    const int32_t row = r.offsets.data[r.chosen.data[s]]++;
    r.rows.data[s] = row;
    r.slots.data[row] = static_cast<int32_t>(s);
  }
  for (int64_t e = E; e > 0; --e) r.offsets.data[e] = r.offsets.data[e - 1];
  r.offsets.data[0] = 0;
}

}  // namespace

Task moe_route_forward(View<const float, 2> logits, bool normalize, View<float, 2> weights, Routes routes) {
  const int64_t N = logits.dim(0), E = logits.dim(1), k = weights.dim(1);
  ATTNEDIT_CHECK(E >= 1, "moe_route", "logits must be of 1 expert or more, got ", to_string(logits.shape));
  ATTNEDIT_CHECK(k >= 1 && k <= E, "moe_route", "weights must have from 1 to ", E, " columns, got ", k);
  ATTNEDIT_CHECK(N * k <= INT32_MAX, "moe_route", "weights must have at most ", INT32_MAX, " numbers, got ", N * k);
  check_shape("moe_route", "weights", weights, std::array{N, k});
  check_shape("moe_route", "chosen", routes.chosen, std::array{N, k});
  check_shape("moe_route", "offsets", routes.offsets, std::array{E + 1});
  check_shape("moe_route", "slots", routes.slots, std::array{N * k});
  check_shape("moe_route", "rows", routes.rows, std::array{N * k});
  return [=] {
    parallel_rows(N, E, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(route_tokens)(logits.data, E, k, normalize, weights.data, routes.chosen.data, begin, end);
    });
    sort_slots(E, routes);
  };
}

Task moe_route_backward(View<const float, 2> dweights, View<const float, 2> logits, View<const int32_t, 2> chosen,
                        bool normalize, View<float, 2> dlogits) {
  const int64_t N = logits.dim(0), E = logits.dim(1), k = chosen.dim(1);
  check_shape("moe_route_backward", "chosen", chosen, std::array{N, k});
  check_shape("moe_route_backward", "dweights", dweights, std::array{N, k});
  check_shape("moe_route_backward", "dlogits", dlogits, std::array{N, E});
  return [=] {
    check_range("moe_route_backward", "chosen", chosen.data, N * k, E);
    parallel_rows(N, E, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(route_tokens_backward)
      (dweights.data, logits.data, chosen.data, E, k, normalize, dlogits.data, begin, end);
    });
  };
}

Task moe_gather(View<const float, 2> x, View<const int32_t, 1> slots, View<float, 2> y) {
  const int64_t N = x.dim(0), D = x.dim(1), rows = slots.dim(0), k = rows / std::max<int64_t>(N, 1);
  ATTNEDIT_CHECK(rows == N * k, "moe_gather", "slots must have a multiple of ", N, " entries, got ", rows);
  check_shape("moe_gather", "y", y, std::array{rows, D});
  return [=] {
    check_range("moe_gather", "slots", slots.data, rows, rows);
    parallel_rows(rows, D, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        std::memcpy(y.data + r * D, x.data + slots.data[r] / k * D, D * sizeof(float));
    });
  };
}

Task moe_combine(View<const float, 2> x, View<const int32_t, 1> rows, View<const float, 2> weights, View<float, 2> y) {
  const int64_t N = y.dim(0), D = y.dim(1), count = rows.dim(0), k = count / std::max<int64_t>(N, 1);
  ATTNEDIT_CHECK(count == N * k, "moe_combine", "rows must have a multiple of ", N, " entries, got ", count);
  check_shape("moe_combine", "x", x, std::array{count, D});
  if (weights) check_shape("moe_combine", "weights", weights, std::array{N, k});
  return [=] {
    check_range("moe_combine", "rows", rows.data, count, count);
    parallel_rows(N, k * D, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(combine_tokens)(x.data, rows.data, weights.data, y.data, k, D, begin, end);
    });
  };
}

Task moe_weigh_backward(View<const float, 2> h, View<const float, 2> weights, View<const int32_t, 1> slots,
                        View<float, 2> dh, View<float, 2> dweights) {
  const int64_t rows = h.dim(0), F = h.dim(1);
  check_shape("moe_weigh_backward", "slots", slots, std::array{rows});
  check_shape("moe_weigh_backward", "dh", dh, h.shape);
  check_shape("moe_weigh_backward", "dweights", dweights, weights.shape);
  ATTNEDIT_CHECK(weights.size() == rows, "moe_weigh_backward", "weights must have ", rows, " numbers, got ",
                 weights.size());
  // dh is read and written.
  Task task = [=] {
    check_range("moe_weigh_backward", "slots", slots.data, rows, rows);
    parallel_rows(rows, F, [&](int64_t begin, int64_t end) {
      ATTNEDIT_BEST(weigh_rows_backward)(h.data, weights.data, slots.data, dh.data, dweights.data, F, begin, end);
    });
  };
  return std::move(task).moving(4.0 * (3 * h.size() + 2 * weights.size()));
}

}  // namespace attnedit::kernels
#endif
