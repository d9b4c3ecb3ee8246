#include <pybind11/pybind11.h>

namespace attnedit::bindings {
void bind_runtime(pybind11::module_& m);
void bind_tensor(pybind11::module_& m);
void bind_layers(pybind11::module_& m);
void bind_decode(pybind11::module_& m);
void bind_losses(pybind11::module_& m);
void bind_moe(pybind11::module_& m);
}  // namespace attnedit::bindings

PYBIND11_MODULE(_core, m) {
  m.doc() = "attnedit's kernels and runtime; attnedit.ops and attnedit.runtime are the way to call them";
  m.attr("__version__") = ATTNEDIT_VERSION;
  attnedit::bindings::bind_runtime(m);
  attnedit::bindings::bind_tensor(m);
  attnedit::bindings::bind_layers(m);
  attnedit::bindings::bind_decode(m);
  attnedit::bindings::bind_losses(m);
  attnedit::bindings::bind_moe(m);
}
