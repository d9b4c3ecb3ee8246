// The losses and the optimizer's step: array -> View, launch; nothing else.
#include "bindings/arguments.h"
#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/fused_kl.h"
#include "kernels/fused_mse.h"
#include "kernels/logit_mse.h"

namespace attnedit::bindings {
namespace {

using namespace attnedit::kernels;

FusedKlOptions kl_options(const std::string& divergence, float temperature, Compute compute) {
  ATTNEDIT_CHECK(divergence == "forward" || divergence == "reverse" || divergence == "jsd", "fused_kl",
                 "divergence must be forward, reverse or jsd, got ", divergence);
  return {divergence == "forward"   ? Divergence::kForward
          : divergence == "reverse" ? Divergence::kReverse
                                    : Divergence::kJsd,
          temperature, compute};
}

}  // namespace

void bind_losses(py::module_& m) {
  m.def("fused_kl", [](py::array student, py::array student_head, py::array teacher, py::array teacher_head,
                       py::array weights, const std::string& divergence, float temperature, const std::string& compute,
                       py::array loss, py::array divergences, MaybeArray dstudent, MaybeArray dhead) {
    const Arguments a("fused_kl");
    const FusedKlOptions options = kl_options(divergence, temperature, a.compute(compute));
    const auto student_ = a.rows("student", student);
    const auto head_ = a.weight("student_head", student_head);
    const Workspace scratch(fused_kl_workspace(student_.dim(0), student_.dim(1), head_.dim(0), options));
    a.launch(fused_kl(student_, head_, a.rows("teacher", teacher), a.weight("teacher_head", teacher_head),
                      a.flat("weights", weights), options, a.out_flat("loss", loss),
                      a.out_flat("divergences", divergences),
                      dstudent ? a.out_rows("dstudent", *dstudent) : View<float, 2>{},
                      dhead ? a.out<2>("dhead", *dhead) : View<float, 2>{}, scratch.view()));
  });
  m.def("cross_entropy",
        [](py::array hidden, py::array head, py::array labels, py::array weights, const std::string& compute,
           py::array loss, py::array nll, py::array argmax, MaybeArray dhidden, MaybeArray dhead) {
          const Arguments a("cross_entropy");
          const auto hidden_ = a.rows("hidden", hidden);
          const auto head_ = a.weight("head", head);
          const Workspace scratch(cross_entropy_workspace(hidden_.dim(0), hidden_.dim(1), head_.dim(0)));
          const auto labels_ = a.tokens("labels", labels);
          a.launch(keep(
              labels_,
              cross_entropy(hidden_, head_, view(labels_), a.flat("weights", weights), a.out_flat("loss", loss),
                            a.out_flat("nll", nll), a.out_tokens("argmax", argmax),
                            dhidden ? a.out_rows("dhidden", *dhidden) : View<float, 2>{},
                            dhead ? a.out<2>("dhead", *dhead) : View<float, 2>{}, scratch.view(), a.compute(compute))));
        });
  m.def("fused_mse", [](py::array student, py::array teacher, py::array weights, float eps, py::array loss,
                        py::array energy, MaybeArray dstudent) {
    const Arguments a("fused_mse");
    const auto student_ = a.rows("student", student);
    const Workspace scratch(fused_mse_workspace(student_.dim(0)));
    a.launch(fused_mse(student_, a.rows("teacher", teacher), a.flat("weights", weights), eps, a.out_flat("loss", loss),
                       a.out_flat("energy", energy), dstudent ? a.out_rows("dstudent", *dstudent) : View<float, 2>{},
                       scratch.view()));
  });
  m.def(
      "cosine_loss", [](py::array student, py::array teacher, py::array weights, py::array loss, MaybeArray dstudent) {
        const Arguments a("cosine_loss");
        const auto student_ = a.rows("student", student);
        const Workspace scratch(fused_mse_workspace(student_.dim(0)));
        a.launch(cosine_loss(student_, a.rows("teacher", teacher), a.flat("weights", weights), a.out_flat("loss", loss),
                             dstudent ? a.out_rows("dstudent", *dstudent) : View<float, 2>{}, scratch.view()));
      });
  m.def("gram", [](py::array head, py::array gram) {
    const Arguments a("gram");
    const auto head_ = a.weight("head", head);
    const Workspace scratch(gram_workspace(head_.dim(0), head_.dim(1)));
    a.launch(kernels::gram(head_, a.out<2>("gram", gram), scratch.view()));
  });
  m.def("logit_mse", [](py::array student, py::array teacher, py::array gram, int64_t vocabulary, py::array weights,
                        py::array loss, MaybeArray dstudent) {
    const Arguments a("logit_mse");
    const auto student_ = a.rows("student", student);
    const Workspace scratch(logit_mse_workspace(student_.dim(0), student_.dim(1)));
    a.launch(logit_mse(student_, a.rows("teacher", teacher), a.in<2>("gram", gram), vocabulary,
                       a.flat("weights", weights), a.out_flat("loss", loss),
                       dstudent ? a.out_rows("dstudent", *dstudent) : View<float, 2>{}, scratch.view()));
  });
  m.def("adamw", [](py::array parameter, py::array gradient, py::array first, py::array second, MaybeArray scale,
                    MaybeArray rounded, float rate, float beta1, float beta2, float eps, float weight_decay,
                    int64_t step, bool zero_gradient) {
    const Arguments a("adamw");
    a.launch(adamw(a.out_flat("parameter", parameter), a.out_flat("gradient", gradient), a.out_flat("m", first),
                   a.out_flat("v", second), scale ? a.flat("gradient_scale", *scale) : View<const float, 1>{},
                   rounded ? a.out_bfloat16("rounded", *rounded) : View<uint16_t, 1>{},
                   {rate, beta1, beta2, eps, weight_decay, step, zero_gradient}));
  });
  m.def("squared_norm", [](py::array gradient, py::array total) {
    const Arguments a("squared_norm");
    const auto gradient_ = a.flat("gradient", gradient);
    const Workspace scratch(squared_norm_workspace(gradient_.dim(0)));
    a.launch(squared_norm(gradient_, a.out_flat("squared_norm", total), scratch.view()));
  });
  m.def("clip_scale", [](py::array total, float limit, py::array scale) {
    const Arguments a("clip_scale");
    a.launch(clip_scale(a.flat("squared_norm", total), limit, a.out_flat("scale", scale)));
  });
}

}  // namespace attnedit::bindings
