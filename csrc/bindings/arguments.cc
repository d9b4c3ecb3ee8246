#include "bindings/arguments.h"

#include "bindings/launch.h"
#include "runtime/profile.h"
#include "runtime/rehearsal.h"

namespace attnedit::bindings {
namespace {

std::string type_name(const py::dtype& type) { return py::str(type); }

// ml_dtypes registers bfloat16 with numpy at run time, so its number is not known earlier.
int bfloat16_number() {
  static const int number = py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")).num();
  return number;
}

bool is_native(const py::array& a) { return a.dtype().byteorder() == '=' || a.dtype().byteorder() == '|'; }

}  // namespace

void Arguments::check_type(const char* name, const py::array& a, const py::dtype& wanted,
                           const char* wanted_name) const {
  if (a.dtype().num() != wanted.num() || !is_native(a))
    throw py::type_error("[" + std::string(op_) + "] " + name + " must be " + wanted_name + ", got " +
                         type_name(a.dtype()));
  ATTNEDIT_CHECK(a.flags() & py::array::c_style, op_, name, " must be contiguous in row-major order");
}

void Arguments::note(const char* name, const py::array& a, bool written) const {
  blocks_.push_back({name, static_cast<const char*>(a.data()), a.nbytes(), written, {}, {}});
  if (profiling()) blocks_.back().shape = py::str(a.attr("shape")), blocks_.back().dtype = type_name(a.dtype());
}

void Arguments::launch(Task task, bool in_place) const {
  for (const Block& output : blocks_)
    for (const Block& other : blocks_)
      ATTNEDIT_CHECK(!output.written || &output == &other || output.begin + output.bytes <= other.begin ||
                         other.begin + other.bytes <= output.begin ||
                         (in_place && output.begin == other.begin && output.bytes == other.bytes),
                     op_, output.name, " must not share memory with ", other.name);
  if (!task.bytes) {
    double bytes = 0;
    for (const Block& block : blocks_) bytes += static_cast<double>(block.bytes);
    task.bytes = bytes;
  }
  if (profiling()) describe(task);
  bindings::launch(op_, std::move(task));
}

void Arguments::describe(Task& task) const {
  bool one_type = true;
  for (const Block& block : blocks_) one_type = one_type && block.dtype == blocks_[0].dtype;
  for (const Block& block : blocks_) {
    const char* const between = task.shapes.empty() ? "" : " ";
    task.shapes.append(between).append(block.name).append(block.shape);
    if (!one_type) task.dtypes.append(between).append(block.name).append(":").append(block.dtype);
  }
  if (one_type && !blocks_.empty()) task.dtypes = blocks_[0].dtype;
  if (!compute_.empty()) task.dtypes.append(", multiplied as ").append(compute_);
}

const void* Arguments::data(const char* name, const py::array& a, int rank, bool written) const {
  check_type(name, a, py::dtype::of<float>(), "float32");
  ATTNEDIT_CHECK(rank < 0 || a.ndim() == rank, op_, name, " must have ", rank, " dimensions, got ", a.ndim());
  note(name, a, written);
  return a.data();
}

void* Arguments::mutable_data(const char* name, py::array& a, int rank) const {
  data(name, a, rank, true);
  ATTNEDIT_CHECK(a.writeable(), op_, name, " must be writeable");
  return a.mutable_data();
}

View<uint16_t, 1> Arguments::out_bfloat16(const char* name, py::array a) const {
  check_type(name, a, py::dtype(bfloat16_number()), "bfloat16");
  ATTNEDIT_CHECK(a.writeable(), op_, name, " must be writeable");
  note(name, a, true);
  return {static_cast<uint16_t*>(a.mutable_data()), {a.size()}};
}

DType Arguments::storage(const char* name, const py::array& a, int rank, bool written) const {
  const int number = is_native(a) ? a.dtype().num() : -1;
  DType dtype = DType::kFloat32;
  if (number == bfloat16_number())
    dtype = DType::kBFloat16;
  else if (number == py::dtype("float16").num())
    dtype = DType::kFloat16;
  else if (number != py::dtype::of<float>().num())
    throw py::type_error("[" + std::string(op_) + "] " + name + " must be float32, bfloat16 or float16, got " +
                         type_name(a.dtype()));
  ATTNEDIT_CHECK(a.flags() & py::array::c_style, op_, name, " must be contiguous in row-major order");
  check_rank(name, a, rank);
  note(name, a, written);
  return dtype;
}

kernels::Compute Arguments::compute(const std::string& name) const {
  ATTNEDIT_CHECK(name == "float32" || name == "bfloat16", op_, "compute must be float32 or bfloat16, got ", name);
  compute_ = name;
  return name == "float32" ? kernels::Compute::kFloat32 : kernels::Compute::kBFloat16;
}

kernels::GateActivation gate_activation(const char* op, const std::string& name) {
  ATTNEDIT_CHECK(name == "sigmoid" || name == "softplus", op, "activation must be sigmoid or softplus, got ", name);
  return name == "sigmoid" ? kernels::GateActivation::kSigmoid : kernels::GateActivation::kSoftplus;
}

}  // namespace attnedit::bindings
