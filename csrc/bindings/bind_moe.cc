// The kernels of a mixture of experts: array -> View, launch; nothing else.
#include "bindings/arguments.h"
#include "kernels/grouped_gemm.h"
#include "kernels/moe.h"

namespace attnedit::bindings {

using namespace attnedit::kernels;

void bind_moe(py::module_& m) {
  m.def("moe_route_forward", [](py::array logits, bool normalize, py::array weights, py::array chosen,
                                py::array offsets, py::array slots, py::array rows) {
    const Arguments a("moe_route");
    a.launch(moe_route_forward(a.rows("logits", logits), normalize, a.out_rows("weights", weights),
                               {a.out_indices<2>("chosen", chosen), a.out_indices("offsets", offsets),
                                a.out_indices("slots", slots), a.out_indices("rows", rows)}));
  });
  m.def("moe_route_backward",
        [](py::array dweights, py::array logits, py::array chosen, bool normalize, py::array dlogits) {
          const Arguments a("moe_route_backward");
          a.launch(moe_route_backward(a.rows("dweights", dweights), a.rows("logits", logits),
                                      a.indices<2>("chosen", chosen), normalize, a.out_rows("dlogits", dlogits)));
        });
  m.def("moe_gather", [](py::array x, py::array slots, py::array y) {
    const Arguments a("moe_gather");
    a.launch(moe_gather(a.rows("x", x), a.indices("slots", slots), a.out_rows("y", y)));
  });
  m.def("moe_combine", [](py::array x, py::array rows, MaybeArray weights, py::array y) {
    const Arguments a("moe_combine");
    a.launch(moe_combine(a.rows("x", x), a.indices("rows", rows),
                         weights ? a.rows("weights", *weights) : View<const float, 2>{}, a.out_rows("y", y)));
  });
  m.def("moe_weigh_backward", [](py::array h, py::array weights, py::array slots, py::array dh, py::array dweights) {
    const Arguments a("moe_weigh_backward");
    a.launch(moe_weigh_backward(a.rows("h", h), a.rows("weights", weights), a.indices("slots", slots),
                                a.out_rows("dh", dh), a.out_rows("dweights", dweights)));
  });
  m.def("grouped_gemm_forward", [](py::array x, py::array offsets, const std::vector<py::array>& weights, py::array y,
                                   const std::string& compute) {
    const Arguments a("grouped_gemm");
    const auto y_ = a.out_rows("y", y);
    const auto x_ = a.rows("x", x);
    const Workspace scratch(grouped_gemm_workspace(x_.dim(1), y_.dim(1)));
    a.launch(grouped_gemm_forward(x_, a.indices("offsets", offsets), a.weights("weights", weights), y_, scratch.view(),
                                  a.compute(compute)));
  });
  m.def("grouped_gemm_input_backward", [](py::array dy, py::array offsets, const std::vector<py::array>& weights,
                                          bool accumulate, py::array dx, const std::string& compute) {
    const Arguments a("grouped_gemm_backward");
    const auto dx_ = a.out_rows("dx", dx);
    const auto dy_ = a.rows("dy", dy);
    const Workspace scratch(grouped_gemm_workspace(dx_.dim(1), dy_.dim(1)));
    a.launch(grouped_gemm_input_backward(dy_, a.indices("offsets", offsets), a.weights("weights", weights), accumulate,
                                         dx_, scratch.view(), a.compute(compute)));
  });
}

}  // namespace attnedit::bindings
