#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "runtime/check.h"
#include "runtime/memory.h"
#include "runtime/task.h"
#include "simd/isa.h"
#include "tensor/view.h"

namespace attnedit::bindings {

namespace py = pybind11;
using MaybeArray = std::optional<py::array>;

// numpy arrays -> Views for one call. Nothing is copied or converted: a wrong rank, type or layout raises and names
// the argument. Leading dimensions are the caller's (batch, time); rows() folds them into one, heads() splits the last.
class Arguments {
 public:
  // Raises for a wrong ATTNEDIT_ISA here: inside a kernel other threads would be at work already.
  explicit Arguments(const char* op) : op_(op) { simd::isa(); }

  // Queues a kernel's task on the current stream, without the GIL, once no output shares memory with another argument:
  // a full queue, or ATTNEDIT_LAUNCH_BLOCKING=1, makes it wait.
  // With in_place an output may be another argument, if it is that whole.
  void launch(Task task, bool in_place = false) const;

  template <int R>
  View<const float, R> in(const char* name, const py::array& a) const {
    return {static_cast<const float*>(data(name, a, R)), shape<R>(a)};
  }
  template <int R>
  View<float, R> out(const char* name, py::array a) const {
    return {static_cast<float*>(mutable_data(name, a, R)), shape<R>(a)};
  }
  View<const float, 2> rows(const char* name, const py::array& a) const {
    return {static_cast<const float*>(data(name, a)), folded(a)};
  }
  View<float, 2> out_rows(const char* name, py::array a) const {
    return {static_cast<float*>(mutable_data(name, a)), folded(a)};
  }
  // (B,T,heads*K) -> (B*T,heads,K)
  View<const float, 3> head_rows(const char* name, const py::array& a, int64_t heads) const {
    const auto x = this->heads(name, a, heads);
    return {x.data, {x.dim(0) * x.dim(1), heads, x.dim(3)}};
  }
  View<float, 3> out_head_rows(const char* name, py::array a, int64_t heads) const {
    const auto y = out_heads(name, a, heads);
    return {y.data, {y.dim(0) * y.dim(1), heads, y.dim(3)}};
  }
  // (B,T,heads*K) -> (B,T,heads,K)
  View<const float, 4> heads(const char* name, const py::array& a, int64_t heads) const {
    return {static_cast<const float*>(data(name, a, 3)), split(name, a, heads)};
  }
  View<float, 4> out_heads(const char* name, py::array a, int64_t heads) const {
    return {static_cast<float*>(mutable_data(name, a, 3)), split(name, a, heads)};
  }
  View<const float, 1> flat(const char* name, const py::array& a) const {
    return {static_cast<const float*>(data(name, a)), {a.size()}};
  }
  View<float, 1> out_flat(const char* name, py::array a) const {
    return {static_cast<float*>(mutable_data(name, a)), {a.size()}};
  }
  View<uint16_t, 1> out_bfloat16(const char* name, py::array a) const;
  // Token ids are checked on the host, so the task keeps its own copy of them: keep() holds it until it has run.
  std::shared_ptr<std::vector<int32_t>> tokens(const char* name, const py::array& a) const {
    check_type(name, a, py::dtype::of<int32_t>(), "int32");
    const auto* first = static_cast<const int32_t*>(a.data());
    return std::make_shared<std::vector<int32_t>>(first, first + a.size());
  }
  // The same for numbers [B,T] of an argument that may be absent; the view is of what to keep().
  std::pair<std::shared_ptr<std::vector<int32_t>>, View<const int32_t, 2>> host_rows(const char* name,
                                                                                     const MaybeArray& a) const {
    if (!a) return {};
    auto numbers = tokens(name, *a);
    check_rank(name, *a, 2);
    return {numbers, {numbers->data(), shape<2>(*a)}};
  }
  View<int32_t, 1> out_tokens(const char* name, py::array a) const {
    check_type(name, a, py::dtype::of<int32_t>(), "int32");
    note(name, a, true);
    return {static_cast<int32_t*>(a.mutable_data()), {a.size()}};
  }
  // Numbers of rows that an earlier task of the stream computes: checked when they are used, not here.
  template <int R = 1>
  View<const int32_t, R> indices(const char* name, const py::array& a) const {
    check_type(name, a, py::dtype::of<int32_t>(), "int32");
    check_rank(name, a, R);
    note(name, a, false);
    return {static_cast<const int32_t*>(a.data()), shape<R>(a)};
  }
  template <int R = 1>
  View<int32_t, R> out_indices(const char* name, py::array a) const {
    check_type(name, a, py::dtype::of<int32_t>(), "int32");
    check_rank(name, a, R);
    note(name, a, true);
    return {static_cast<int32_t*>(a.mutable_data()), shape<R>(a)};
  }
  // A matrix, or a cache, of any storage type.
  template <int R = 2>
  WeightView<R> weight(const char* name, const py::array& a) const {
    const DType dtype = storage(name, a, R);
    return {a.data(), dtype, shape<R>(a)};
  }
  CacheView<3> out_cache(const char* name, py::array a) const {
    const DType dtype = storage(name, a, 3, true);
    return {a.mutable_data(), dtype, shape<3>(a)};
  }
  std::vector<WeightView<2>> weights(const char* name, const std::vector<py::array>& arrays) const {
    std::vector<WeightView<2>> views;
    for (const py::array& array : arrays) views.push_back(weight(name, array));
    return views;
  }
  // What the factors of products are rounded to.
  kernels::Compute compute(const std::string& name) const;
  // (B,S,heads*K) -> (B,S,heads,K)
  WeightView<4> stored_heads(const char* name, const py::array& a, int64_t heads) const {
    const DType dtype = storage(name, a, 3);
    return {a.data(), dtype, split(name, a, heads)};
  }

 private:
  template <int R>
  static std::array<int64_t, R> shape(const py::array& a) {
    std::array<int64_t, R> s;
    for (int i = 0; i < R; ++i) s[i] = a.shape(i);
    return s;
  }
  static std::array<int64_t, 2> folded(const py::array& a) {
    const int64_t last = a.ndim() ? a.shape(a.ndim() - 1) : 1;
    int64_t rows = 1;
    for (int i = 0; i + 1 < a.ndim(); ++i) rows *= a.shape(i);
    return {rows, last};
  }
  std::array<int64_t, 4> split(const char* name, const py::array& a, int64_t heads) const {
    ATTNEDIT_CHECK(heads > 0 && a.shape(2) % heads == 0, op_, name, " must have a last dimension divisible by ", heads,
                   " heads, got ", a.shape(2));
    return {a.shape(0), a.shape(1), heads, a.shape(2) / heads};
  }
  void check_rank(const char* name, const py::array& a, int rank) const {
    ATTNEDIT_CHECK(a.ndim() == rank, op_, name, " must have ", rank, " dimensions, got ", a.ndim());
  }
  DType storage(const char* name, const py::array& a, int rank, bool written = false) const;
  void check_type(const char* name, const py::array& a, const py::dtype& wanted, const char* wanted_name) const;
  const void* data(const char* name, const py::array& a, int rank = -1, bool written = false) const;
  void* mutable_data(const char* name, py::array& a, int rank = -1) const;

  struct Block {
    const char* name;
    const char* begin;
    int64_t bytes;
    bool written;
    std::string shape, dtype;  // only while profiling
  };
  void note(const char* name, const py::array& a, bool written) const;
  void describe(Task& task) const;

  const char* op_;
  mutable std::vector<Block> blocks_;
  mutable std::string compute_;
};

inline View<const int32_t, 1> view(const std::shared_ptr<std::vector<int32_t>>& tokens) {
  return {tokens->data(), {static_cast<int64_t>(tokens->size())}};
}
kernels::GateActivation gate_activation(const char* op, const std::string& name);

// The task, holding on to what it reads.
template <class T>
Task keep(std::shared_ptr<T> what, Task task) {
  std::function<void()>& run = task;
  run = [what, run = std::move(run)] { run(); };
  return task;
}

// Scratch for one launch, from the pool. It is given back as soon as the task is queued: blocks are reused in the order
// of the stream, so whoever gets it next runs later.
class Workspace {
 public:
  explicit Workspace(int64_t floats) : floats_(floats), data_(floats ? allocate(floats * sizeof(float)) : nullptr) {}
  ~Workspace() {
    if (data_) release(data_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  View<float, 1> view() const { return {static_cast<float*>(data_), {floats_}}; }

 private:
  int64_t floats_;
  void* data_;
};

}  // namespace attnedit::bindings
