"""What absorbed attention does around mla_decode: W_uk to the query, W_uv to the output, for one new token each.

The weight is read once, and that is the cost.
"""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, torch_run

MODEL = "Qwen3-0.6B as MLA"
M = SHAPES[MODEL]
H, R, P = M["num_attention_heads"], M["kv_lora_rank"], M["qk_rope_head_dim"]
KN, KV = M["qk_nope_head_dim"], M["v_head_dim"]
CASES = [Case(f"{MODEL} B{b}", "forward", {"B": b}, "read", 4.0 * H * (KN + KV) * R, ("torch einsum",)) for b in (1, 8)]


def inputs(case: Case) -> dict[str, Array]:
    b = case.shape["B"]
    return {
        "q": normal((b, 1, H * (KN + P)), 1),
        "latent": normal((b, 1, H * R), 2),
        "kv_b": normal((H * (KN + KV), R), 3, 0.1),
    }


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    b = case.shape["B"]
    q_latent, q_rope, o = empty(b, 1, H * R), empty(b, 1, H * P), empty(b, 1, H * KV)

    def run() -> Mapping[str, Array]:
        _core.mla_absorb_query(x["q"], x["kv_b"], H, q_latent, q_rope)
        _core.mla_absorb_value(x["latent"], x["kv_b"], H, o)
        return {"q_latent": q_latent, "o": o}

    return run


def in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    import torch

    def function(q: Any, latent: Any, kv_b: Any) -> Mapping[str, Any]:
        w_uk, w_uv = kv_b.view(H, KN + KV, R).split([KN, KV], 1)
        nope = q.unflatten(2, (H, KN + P))[..., :KN]
        return {
            "q_latent": torch.einsum("bthn,hnr->bthr", nope, w_uk).flatten(2),
            "o": torch.einsum("bthr,hvr->bthv", latent.unflatten(2, (H, R)), w_uv).flatten(2),
        }

    return torch_run(case, x, (), function)


PEERS = {"torch einsum": in_torch}
