// Attention over a cache: array -> View, launch; nothing else.
#include "bindings/arguments.h"
#include "kernels/cache_store.h"
#include "kernels/decode_attention.h"
#include "kernels/mla_absorb.h"
#include "kernels/mla_decode.h"

namespace attnedit::bindings {

using namespace attnedit::kernels;

void bind_decode(py::module_& m) {
  m.def("cache_store", [](py::array x, py::array first, int64_t offset, py::array cache) {
    const Arguments a("cache_store");
    const auto first_ = a.tokens("first", first);
    a.launch(keep(first_, cache_store(a.in<3>("x", x), view(first_), offset, a.out_cache("cache", cache))));
  });
  m.def("mla_absorb_query", [](py::array q, py::array kv_b, int64_t heads, py::array q_latent, py::array q_rope) {
    const Arguments a("mla_absorb_query");
    a.launch(mla_absorb_query(a.head_rows("q", q, heads), a.weight("kv_b", kv_b),
                              a.out_head_rows("q_latent", q_latent, heads), a.out_head_rows("q_rope", q_rope, heads)));
  });
  m.def("mla_absorb_value", [](py::array o_latent, py::array kv_b, int64_t heads, py::array o) {
    const Arguments a("mla_absorb_value");
    a.launch(mla_absorb_value(a.head_rows("o_latent", o_latent, heads), a.weight("kv_b", kv_b),
                              a.out_head_rows("o", o, heads)));
  });
  m.def("mla_decode", [](py::array q_latent, py::array q_rope, py::array cache, py::array lengths, int64_t heads,
                         float scale, const std::string& compute, py::array o) {
    const Arguments a("mla_decode");
    const auto q_latent_ = a.heads("q_latent", q_latent, heads), q_rope_ = a.heads("q_rope", q_rope, heads);
    const auto cache_ = a.weight<3>("cache", cache);
    const auto lengths_ = a.tokens("lengths", lengths);
    const Workspace scratch(mla_decode_workspace(q_latent_.dim(0), q_latent_.dim(1), cache_.dim(1), heads,
                                                 q_latent_.dim(3), q_rope_.dim(3)));
    a.launch(keep(lengths_, mla_decode(q_latent_, q_rope_, cache_, view(lengths_), scale, a.out_heads("o", o, heads),
                                       scratch.view(), a.compute(compute))));
  });
  m.def("decode_attention", [](py::array q, py::array k, py::array v, py::array lengths, MaybeArray gate, int64_t heads,
                               int64_t kv_heads, float scale, const std::string& activation, py::array o) {
    const Arguments a("decode_attention");
    const auto q_ = a.heads("q", q, heads);
    const auto k_ = a.stored_heads("k", k, kv_heads), v_ = a.stored_heads("v", v, kv_heads);
    const auto lengths_ = a.tokens("lengths", lengths);
    const Workspace scratch(decode_attention_workspace(q_.dim(0), k_.dim(1), heads, kv_heads, q_.dim(3), v_.dim(3)));
    a.launch(keep(lengths_, decode_attention(q_, k_, v_, view(lengths_),
                                             gate ? a.heads("gate", *gate, heads) : View<const float, 4>{}, scale,
                                             gate_activation("decode_attention", activation),
                                             a.out_heads("o", o, heads), scratch.view())));
  });
}

}  // namespace attnedit::bindings
