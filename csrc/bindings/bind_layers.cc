// The kernels of the model's layers: array -> View, launch; nothing else.
#include "bindings/arguments.h"
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/mla_projection.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"

namespace attnedit::bindings {
namespace {

using namespace attnedit::kernels;

RopeLayout layout(bool interleaved) { return interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalfSplit; }

// The width of a norm over rows or, head by head, over parts of them.
int64_t normed_width(const char* op, const py::array& x, const py::array& weight) {
  const int64_t D = weight.size(), last = x.ndim() ? x.shape(x.ndim() - 1) : 0;
  ATTNEDIT_CHECK(D > 0 && x.ndim() > 0 && last % D == 0, op,
                 "weight must have a length that divides the last dimension of x, ", last, ", got ", D);
  return D;
}

// Rows of D numbers, as many as there are whole ones.
template <class T>
View<T, 2> rows_of(View<T, 1> numbers, int64_t D) {
  return {numbers.data, {numbers.dim(0) / D, D}};
}

void bind_linear(py::module_& m) {
  m.def("gemm_forward", [](py::array x, py::array weight, MaybeArray bias, py::array y, const std::string& compute) {
    const Arguments a("linear");
    const auto x_ = a.rows("x", x);
    const auto weight_ = a.weight("weight", weight);
    const Workspace scratch(gemm_workspace(x_.dim(0), weight_.dim(1), weight_.dim(0)));
    a.launch(gemm_forward(x_, weight_, bias ? a.in<1>("bias", *bias) : View<const float, 1>{}, a.out_rows("y", y),
                          scratch.view(), a.compute(compute)));
  });
  m.def("gemm_input_backward", [](py::array dy, py::array weight, py::array dx, const std::string& compute) {
    const Arguments a("linear_backward");
    const auto dy_ = a.rows("dy", dy);
    const auto weight_ = a.weight("weight", weight);
    const Workspace scratch(gemm_workspace(dy_.dim(0), weight_.dim(1), weight_.dim(0)));
    a.launch(gemm_input_backward(dy_, weight_, a.out_rows("dx", dx), scratch.view(), a.compute(compute)));
  });
  m.def("gemm_weight_backward", [](py::array dy, py::array x, py::array dweight, MaybeArray dbias,
                                   const std::string& compute) {
    const Arguments a("linear_backward");
    const auto x_ = a.rows("x", x);
    const auto dweight_ = a.out<2>("dweight", dweight);
    const Workspace scratch(gemm_workspace(x_.dim(0), dweight_.dim(1), dweight_.dim(0)));
    a.launch(gemm_weight_backward(a.rows("dy", dy), x_, dweight_, dbias ? a.out<1>("dbias", *dbias) : View<float, 1>{},
                                  scratch.view(), a.compute(compute)));
  });
  m.def("gemm_bias_backward", [](py::array dy, py::array dbias) {
    const Arguments a("linear_backward");
    a.launch(gemm_bias_backward(a.rows("dy", dy), a.out<1>("dbias", dbias)));
  });
}

void bind_rows(py::module_& m) {
  m.def("embedding_forward", [](py::array tokens, py::array table, py::array y) {
    const Arguments a("embedding");
    const auto tokens_ = a.tokens("tokens", tokens);
    a.launch(keep(tokens_, embedding_forward(view(tokens_), a.weight("table", table), a.out_rows("y", y))));
  });
  m.def("embedding_backward", [](py::array dy, py::array tokens, py::array dtable) {
    const Arguments a("embedding_backward");
    const auto tokens_ = a.tokens("tokens", tokens);
    a.launch(keep(tokens_, embedding_backward(a.rows("dy", dy), view(tokens_), a.out<2>("dtable", dtable))));
  });
  // width: the last dimension of a row; a head's width normalises head by head
  m.def("rms_norm_forward", [](py::array x, py::array weight, float eps, py::array y, py::array rstd) {
    const Arguments a("rms_norm");
    const int64_t D = normed_width("rms_norm", x, weight);
    a.launch(rms_norm_forward(rows_of(a.flat("x", x), D), a.in<1>("weight", weight), eps,
                              rows_of(a.out_flat("y", y), D), a.out_flat("rstd", rstd)));
  });
  m.def("rms_norm_backward",
        [](py::array dy, py::array x, py::array weight, py::array rstd, py::array dx, MaybeArray dweight) {
          const Arguments a("rms_norm_backward");
          const int64_t D = normed_width("rms_norm_backward", x, weight);
          const Workspace scratch(dweight ? rms_norm_workspace(x.size() / D, D) : 0);
          a.launch(rms_norm_backward(rows_of(a.flat("dy", dy), D), rows_of(a.flat("x", x), D),
                                     a.in<1>("weight", weight), a.flat("rstd", rstd), rows_of(a.out_flat("dx", dx), D),
                                     dweight ? a.out<1>("dweight", *dweight) : View<float, 1>{}, scratch.view()));
        });
  m.def("rope_forward", [](py::array x, py::array cos, py::array sin, int64_t start, int64_t heads, int64_t offset,
                           bool interleaved, py::array y) {
    const Arguments a("rope");
    a.launch(rope_forward(a.heads("x", x, heads), a.in<2>("cos", cos), a.in<2>("sin", sin), start, offset,
                          layout(interleaved), a.out_heads("y", y, heads)));
  });
  m.def("rope_backward", [](py::array dy, py::array cos, py::array sin, int64_t start, int64_t heads, int64_t offset,
                            bool interleaved, py::array dx) {
    const Arguments a("rope_backward");
    a.launch(rope_backward(a.heads("dy", dy, heads), a.in<2>("cos", cos), a.in<2>("sin", sin), start, offset,
                           layout(interleaved), a.out_heads("dx", dx, heads)));
  });
  m.def("swiglu_forward", [](py::array gate, py::array up, py::array y) {
    const Arguments a("swiglu");
    a.launch(swiglu_forward(a.rows("gate", gate), a.rows("up", up), a.out_rows("y", y)));
  });
  m.def("swiglu_backward", [](py::array dy, py::array gate, py::array up, py::array dgate, py::array dup) {
    const Arguments a("swiglu_backward");
    a.launch(swiglu_backward(a.rows("dy", dy), a.rows("gate", gate), a.rows("up", up), a.out_rows("dgate", dgate),
                             a.out_rows("dup", dup)));
  });
}

void bind_attention(py::module_& m) {
  m.def("attention_forward", [](py::array q, py::array k, py::array v, MaybeArray gate, MaybeArray starts,
                                int64_t heads, int64_t kv_heads, float scale, int64_t window,
                                const std::string& activation, const std::string& compute, py::array o, MaybeArray y,
                                py::array lse) {
    const Arguments a("attention");
    const auto q_ = a.heads("q", q, heads), k_ = a.heads("k", k, kv_heads), v_ = a.heads("v", v, kv_heads);
    const Workspace scratch(attention_forward_workspace(q_.dim(0), q_.dim(1), heads, kv_heads, q_.dim(3), v_.dim(3)));
    const auto starts_ = a.host_rows("document_starts", starts);
    a.launch(keep(
        starts_.first,
        attention_forward(q_, k_, v_, gate ? a.heads("gate", *gate, heads) : View<const float, 4>{}, starts_.second,
                          {scale, window, gate_activation("attention", activation), a.compute(compute)},
                          a.out_heads("o", o, heads), y ? a.out_heads("y", *y, heads) : View<float, 4>{},
                          a.out<3>("lse", lse), scratch.view())));
  });
  m.def("attention_backward", [](py::array dy, py::array q, py::array k, py::array v, MaybeArray gate,
                                 MaybeArray starts, int64_t heads, int64_t kv_heads, float scale, int64_t window,
                                 const std::string& activation, const std::string& compute, py::array o, py::array lse,
                                 py::array dq, py::array dk, py::array dv, MaybeArray dgate) {
    const Arguments a("attention_backward");
    const auto q_ = a.heads("q", q, heads), k_ = a.heads("k", k, kv_heads), v_ = a.heads("v", v, kv_heads);
    const Workspace scratch(attention_backward_workspace(q_.dim(0), q_.dim(1), heads, kv_heads, q_.dim(3), v_.dim(3)));
    const auto starts_ = a.host_rows("document_starts", starts);
    a.launch(
        keep(starts_.first,
             attention_backward(a.heads("dy", dy, heads), q_, k_, v_,
                                gate ? a.heads("gate", *gate, heads) : View<const float, 4>{}, starts_.second,
                                {scale, window, gate_activation("attention_backward", activation), a.compute(compute)},
                                a.heads("o", o, heads), a.in<3>("lse", lse), a.out_heads("dq", dq, heads),
                                a.out_heads("dk", dk, kv_heads), a.out_heads("dv", dv, kv_heads),
                                dgate ? a.out_heads("dgate", *dgate, heads) : View<float, 4>{}, scratch.view())));
  });
  m.def("mla_compress_forward", [](py::array kv_a, py::array weight, float eps, py::array cos, py::array sin,
                                   int64_t start, py::array latent, py::array rstd, py::array k_rope) {
    const Arguments a("mla_compress");
    a.launch(mla_compress_forward(a.in<3>("kv_a", kv_a), a.in<1>("weight", weight), eps, a.in<2>("cos", cos),
                                  a.in<2>("sin", sin), start, a.out<3>("latent", latent), a.out<2>("rstd", rstd),
                                  a.out<3>("k_rope", k_rope)));
  });
  m.def("mla_compress_backward",
        [](py::array dlatent, py::array dk_rope, py::array kv_a, py::array weight, py::array rstd, py::array cos,
           py::array sin, int64_t start, py::array dkv_a, MaybeArray dweight) {
          const Arguments a("mla_compress_backward");
          const auto weight_ = a.in<1>("weight", weight);
          const Workspace scratch(dweight ? mla_compress_workspace(rstd.size(), weight_.dim(0)) : 0);
          a.launch(mla_compress_backward(a.in<3>("dlatent", dlatent), a.in<3>("dk_rope", dk_rope),
                                         a.in<3>("kv_a", kv_a), weight_, a.in<2>("rstd", rstd), a.in<2>("cos", cos),
                                         a.in<2>("sin", sin), start, a.out<3>("dkv_a", dkv_a),
                                         dweight ? a.out<1>("dweight", *dweight) : View<float, 1>{}, scratch.view()));
        });
  m.def("mla_expand_forward", [](py::array kv, py::array k_rope, int64_t heads, py::array k, py::array v) {
    const Arguments a("mla_expand");
    a.launch(mla_expand_forward(a.heads("kv", kv, heads), a.in<3>("k_rope", k_rope), a.out_heads("k", k, heads),
                                a.out_heads("v", v, heads)));
  });
  m.def("mla_expand_backward", [](py::array dk, py::array dv, int64_t heads, py::array dkv, py::array dk_rope) {
    const Arguments a("mla_expand_backward");
    a.launch(mla_expand_backward(a.heads("dk", dk, heads), a.heads("dv", dv, heads), a.out_heads("dkv", dkv, heads),
                                 a.out<3>("dk_rope", dk_rope)));
  });
}

}  // namespace

void bind_layers(py::module_& m) {
  bind_linear(m);
  bind_rows(m);
  bind_attention(m);
}

}  // namespace attnedit::bindings
