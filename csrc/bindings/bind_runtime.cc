// Devices, streams, events and memory. attnedit.runtime gives them their names and defaults.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "bindings/launch.h"
#include "runtime/check.h"
#include "runtime/event.h"
#include "runtime/lost_file.h"
#include "runtime/memory.h"
#include "runtime/parallel.h"
#include "runtime/profile.h"
#include "runtime/rehearsal.h"
#include "runtime/stream.h"
#include "simd/isa.h"

namespace attnedit::bindings {

namespace py = pybind11;

void launch(const char* name, Task task) {
  py::gil_scoped_release release_gil;
  current_stream().launch(name, std::move(task));
}

namespace {

using NoGil = py::call_guard<py::gil_scoped_release>;

// A numpy array of pool memory; the last view of it to die releases the block.
py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
  // Numbers, and ml_dtypes' own (V); an object's memory must not be undefined.
  if (std::string("biufcV").find(dtype.kind()) == std::string::npos || dtype.has_fields())
    throw py::type_error("[empty] dtype must be of numbers, got " + std::string(py::str(dtype)));
  size_t bytes = dtype.itemsize();
  for (py::ssize_t d : shape) {
    ATTNEDIT_CHECK(d >= 0, "empty", "shape must not be negative, got ", d);
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(d), &bytes))
      throw OutOfMemory("[empty] shape has more bytes than an address can count");
  }
  void* block;
  {
    py::gil_scoped_release release_gil;  // it may have to wait for memory
    block = allocate(bytes);
  }
  return py::array(dtype, shape, block, py::capsule(block, [](void* data) { release(data); }));
}

// The caller's memory, e.g. of a memory-mapped file, as an array whose end waits for the kernels that may still read
// it.
py::array borrow(const py::array& array) {
  const void* owner = array.inc_ref().ptr();
  py::capsule keeper(owner, [](void* original) {
    bool unused;
    {
      py::gil_scoped_release release_gil;
      unused = wait_for_all_streams();
    }
    if (unused) Py_DECREF(static_cast<PyObject*>(original));
  });
  const std::vector<py::ssize_t> shape(array.shape(), array.shape() + array.ndim());
  const std::vector<py::ssize_t> strides(array.strides(), array.strides() + array.ndim());
  py::array view(array.dtype(), shape, strides, array.data(), keeper);
  if (!array.writeable()) view.attr("setflags")(py::arg("write") = false);
  return view;
}

// The block that an array, or the array it is a view of, was made from.
void record_array(py::array array, Stream& stream) {
  while (py::isinstance<py::array>(array.base())) array = py::reinterpret_borrow<py::array>(array.base());
  record_stream(const_cast<void*>(array.data()), stream);
}

py::dict stats_dict(int device) {
  const MemoryStats stats = memory_stats(device);
  py::dict d;
  d["allocated_bytes.all.current"] = stats.allocated;
  d["allocated_bytes.all.peak"] = stats.allocated_peak;
  d["reserved_bytes.all.current"] = stats.reserved;
  d["reserved_bytes.all.peak"] = stats.reserved_peak;
  d["allocation.all.allocated"] = stats.allocations;
  d["num_ooms"] = stats.out_of_memory;
  return d;
}

void bind_devices(py::module_& m) {
  m.def("backend_name", [] { return backend().name; });
  m.def("device_count", &device_count);
  m.def("current_device", &current_device);
  m.def("set_current_device", &set_current_device);
  m.def("device_name", &device_name);
  m.def("is_simulated", &is_simulated);
  m.def("memory_info", [](int device) {
    const MemoryInfo info = memory_info(device);
    return py::make_tuple(info.available, info.total);
  });
  m.def("isa", [] { return simd::name(simd::isa()); });
  m.def("matrix_tiles_refused", [] { return simd::matrix_tiles() == simd::MatrixTileState::kRefused; });
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
  m.attr("MOST_THREADS") = kMostThreads;
}

void bind_streams(py::module_& m) {
  py::class_<Stream, std::shared_ptr<Stream>>(m, "Stream", py::release_gil_before_calling_cpp_dtor())
      .def(py::init<int>())
      .def_property_readonly("device", &Stream::device)
      .def("synchronize", &Stream::synchronize, NoGil())
      .def("query", &Stream::query, NoGil())
      .def("wait", &Stream::wait, NoGil());
  py::class_<Event>(m, "Event")
      .def(py::init<>())
      .def("record", &Event::record, NoGil())
      .def("query", &Event::query, NoGil())
      .def("synchronize", &Event::synchronize, NoGil())
      .def("elapsed_ms", &Event::elapsed_ms, NoGil());
  m.def("current_stream", [] { return current_stream().shared_from_this(); });
  m.def("set_current_stream", &set_current_stream);
  m.def("synchronize", &synchronize_device, NoGil());
  // Python objects that kernels use must outlive them: nothing is queued any more when the interpreter takes itself
  // down.
  py::module_::import("atexit").attr("register")(py::cpp_function(&wait_for_all_streams, NoGil()));
}

void bind_profile(py::module_& m) {
  m.def("start_profile", &start_profile);
  m.def("stop_profile", [] {
    py::list spans;
    for (const Span& s : stop_profile()) {
      py::dict span;
      span["name"] = s.name, span["shapes"] = s.shapes, span["dtypes"] = s.dtypes;
      span["device"] = s.device, span["stream"] = s.stream;
      span["begin"] = s.begin, span["end"] = s.end, span["flops"] = s.flops, span["bytes"] = s.bytes;
      spans.append(span);
    }
    return spans;
  });
}

void bind_rehearsal(py::module_& m) {
  m.def("start_rehearsal", &start_rehearsal);
  m.def("rehearsed", &rehearsed);
  m.def("stop_rehearsal", [] {
    const Rehearsal made = stop_rehearsal();
    py::list tasks;
    for (const Rehearsed& task : made.tasks) tasks.append(py::make_tuple(task.name, task.flops, task.bytes));
    return py::make_tuple(tasks, made.memory.allocated_peak, made.memory.reserved_peak);
  });
}

void bind_memory(py::module_& m) {
  m.def("empty", &empty);
  m.def("borrow", &borrow);
  m.def("record_stream", &record_array);
  m.def("memory_stats", &stats_dict);
  m.def("reset_peak_memory_stats", &reset_peak_memory_stats);
  m.def("set_memory_limit",
        [](std::optional<size_t> bytes, int device) { set_memory_limit(bytes.value_or(kNoMemoryLimit), device); });
  m.def("empty_cache", &empty_cache, NoGil());
  m.def("report_lost_files", &report_lost_files);
}

}  // namespace

void bind_runtime(py::module_& m) {
  bind_devices(m);
  bind_streams(m);
  bind_memory(m);
  bind_profile(m);
  bind_rehearsal(m);
}

}  // namespace attnedit::bindings
