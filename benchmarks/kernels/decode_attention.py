"""Grouped-query attention of one new token over cached keys and values, full or in a window's ring.

Bytes: every filled slot's keys and values, read once. A ring may fit the last cache, and then beat memory.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

MODEL = "Qwen3-0.6B"
M = SHAPES[MODEL]
H, G, K = M["num_attention_heads"], M["num_key_value_heads"], M["head_dim"]
TORCH = ("torch sdpa, grouped",)
CASES = [
    Case(
        f"{MODEL} B{b} {kind}{t}{' bf16 cache' if half else ''}", "forward", {"B": b, "T": t, "half": half}, "read",
        (4.0 - 2 * half) * b * t * 2 * G * K, TORCH, "bfloat16" if half else "float32", 4e-2 if half else 1e-4,
        long=(kind, t) == ("T", 4096),
    )
    for b, kind, t in ((1, "W", 512), (8, "W", 512), (1, "T", 4096), (8, "T", 4096), (1, "T", 32768))
    for half in (False, True)
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    b, t = case.shape["B"], case.shape["T"]
    return {"q": normal((b, 1, H * K), 1), "k": normal((b, t, G * K), 2), "v": normal((b, t, G * K), 3)}


def ours(case: Case, x: dict[str, Array]) -> Run:
    import ml_dtypes

    from attnedit import _core

    if case.shape["half"]:  # in the place of the others, for they are inputs
        x |= {name: x[name].astype(ml_dtypes.bfloat16, copy=False) for name in ("k", "v")}
    k, v = x["k"], x["v"]
    lengths, o = np.full(case.shape["B"], case.shape["T"], np.int32), empty(*x["q"].shape)

    def run() -> Mapping[str, Array]:
        _core.decode_attention(x["q"], k, v, lengths, None, H, G, K**-0.5, "sigmoid", o)
        return {"o": o}

    return run


def sdpa(case: Case, x: Mapping[str, Any]) -> Run:
    """The cache as engines keep it for torch: head by head, [B, G, S, K]."""
    from torch.nn import functional

    kept = {n: x[n].unflatten(2, (G, K)).transpose(1, 2).contiguous() for n in ("k", "v")}

    def function(q: Any, k: Any, v: Any) -> Mapping[str, Any]:
        q = q.unflatten(2, (H, K)).transpose(1, 2)
        o = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return {"o": o.transpose(1, 2).flatten(2)}

    return torch_run(case, {"q": x["q"], **kept}, (), function)


PEERS = {TORCH[0]: sdpa}
