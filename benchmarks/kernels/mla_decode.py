"""Absorbed multi-head latent attention over a cache: one new token of each sequence.

Arithmetic: every cached position costs 2 (2 R + P) operations a head, for 4 (R + P) bytes: with 16 heads, 15 operations
a byte, which is near the balance of a processor. Whichever takes longer is the limit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

MODEL = "Qwen3-0.6B as MLA"
M = SHAPES[MODEL]
H, R, P = M["num_attention_heads"], M["kv_lora_rank"], M["qk_rope_head_dim"]
SCALE = (M["qk_nope_head_dim"] + P) ** -0.5
TORCH = ("torch matmul softmax matmul", "torch sdpa")
CASES = [
    Case(
        f"{MODEL} B{b} T{t}{' bf16 cache' if half else ''}", "forward", {"B": b, "T": t, "half": half},
        "pairs" if half else "fma", 2.0 * b * t * H * (2 * R + P),
        # sdpa takes seconds where values are narrower than keys: once shows it.
        TORCH if b * t == 4096 else TORCH[:1],
        "bfloat16" if half else "float32",
        4e-2 if half else 1e-4,
        (4.0 - 2 * half) * b * t * (R + P),
    )
    for b, t in ((1, 4096), (8, 4096), (1, 32768), (8, 32768))
    for half in (False, True)
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    b, t = case.shape["B"], case.shape["T"]
    return {
        "q_latent": normal((b, 1, H * R), 1, 0.1),
        "q_rope": normal((b, 1, H * P), 2),
        "cache": normal((b, t, R + P), 3),
    }


def ours(case: Case, x: dict[str, Array]) -> Run:
    import ml_dtypes

    from attnedit import _core

    if case.shape["half"]:  # in the place of the other, for it is an input
        x["cache"] = x["cache"].astype(ml_dtypes.bfloat16, copy=False)
    cache = x["cache"]
    lengths, o = np.full(case.shape["B"], case.shape["T"], np.int32), empty(*x["q_latent"].shape)

    def run() -> Mapping[str, Array]:
        _core.mla_decode(x["q_latent"], x["q_rope"], cache, lengths, H, SCALE, case.dtype, o)
        return {"o": o}

    return run


def in_torch(case: Case, x: Mapping[str, Any], fused: bool) -> Run:
    import torch
    from torch.nn import functional

    def function(q_latent: Any, q_rope: Any, cache: Any) -> Mapping[str, Any]:
        q = torch.cat([q_latent.unflatten(2, (H, R)), q_rope.unflatten(2, (H, P))], -1)
        if fused:
            o = functional.scaled_dot_product_attention(
                q.transpose(1, 2), cache.unsqueeze(1), cache[..., :R].unsqueeze(1), scale=SCALE, enable_gqa=True
            )
        else:
            o = torch.softmax(q[:, 0] @ cache.mT * SCALE, -1) @ cache[..., :R]
        return {"o": o.reshape(len(o), 1, -1)}

    return torch_run(case, x, (), function)


PEERS = {
    TORCH[0]: lambda case, x: in_torch(case, x, fused=False),
    TORCH[1]: lambda case, x: in_torch(case, x, fused=True),
}
