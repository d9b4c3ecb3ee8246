"""Storing rows in a cache: a prompt's keys, and the newest tokens of several sequences. Read once, written once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, normal, torch_run

MODEL = "Qwen3-0.6B"
M = SHAPES[MODEL]
W = M["num_key_value_heads"] * M["head_dim"]
SLOTS = 8192
CASES = [
    Case(
        f"{MODEL} B{b} T{t}{' bf16 cache' if half else ''}", "forward", {"B": b, "T": t, "half": half}, "copy",
        b * t * W * (6.0 if half else 8.0), ("torch slice",), tolerance=1e-2 if half else 1e-4, long=t == 1,
    )
    for b, t in ((1, 4096), (8, 1))
    for half in (False, True)
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    return {"x": normal((case.shape["B"], case.shape["T"], W), 1)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import ml_dtypes

    from attnedit import _core

    b, t = case.shape["B"], case.shape["T"]
    cache = _core.empty((b, SLOTS, W), np.dtype(ml_dtypes.bfloat16 if case.shape["half"] else np.float32))
    first = np.full(b, 7, np.int32)

    def run() -> Mapping[str, Array]:
        _core.cache_store(x["x"], first, 0, cache)
        return {"stored": cache[:, 7 : 7 + t]}

    return run


def in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    import torch

    b, t = case.shape["B"], case.shape["T"]
    cache = torch.empty((b, SLOTS, W), dtype=torch.bfloat16 if case.shape["half"] else torch.float32)

    def function(x: Any) -> Mapping[str, Any]:
        cache[:, 7 : 7 + t] = x
        return {"stored": cache[:, 7 : 7 + t]}

    return torch_run(case, x, (), function)


PEERS = {"torch slice": in_torch}
