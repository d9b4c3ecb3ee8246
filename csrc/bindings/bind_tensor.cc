// What a tensor needs besides layers: numbers in, sums, constants.
#include <algorithm>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/launch.h"
#include "kernels/add.h"
#include "runtime/rehearsal.h"

namespace attnedit::bindings {

void bind_tensor(py::module_& m) {
  m.def("add", [](py::array a, py::array b, py::array y) {
    const Arguments args("add");
    args.launch(kernels::add(args.flat("a", a), args.flat("b", b), args.out_flat("y", y)), true);
  });
  m.def("fill", [](py::array y, float value) {
    const Arguments args("fill");
    args.launch(kernels::fill(value, args.out_flat("y", y)));
  });
  // y = x in the order of the stream; x, the caller's memory, is read before this returns.
  m.def("upload", [](py::array x, py::array y) {
    ATTNEDIT_CHECK(x.dtype().num() == y.dtype().num() && x.nbytes() == y.nbytes(), "upload",
                   "x and y must have the same type and size");
    ATTNEDIT_CHECK(x.flags() & y.flags() & py::array::c_style, "upload", "x and y must be contiguous");
    const double moved = 2.0 * static_cast<double>(x.nbytes());
    if (rehearsing()) return launch("upload", Task([] {}).moving(moved));
    const char* from = static_cast<const char*>(x.data());
    auto staged = std::make_shared<std::vector<char>>(from, from + x.nbytes());
    char* to = static_cast<char*>(y.mutable_data());
    launch("upload", Task([staged, to] { std::copy(staged->begin(), staged->end(), to); }).moving(moved));
  });
}

}  // namespace attnedit::bindings
