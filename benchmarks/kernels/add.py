"""The residual stream's a + b into given memory. Bytes: both read, the sum written."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal

WIDTH = SHAPES["Qwen3-0.6B"]["hidden_size"]
CASES = [
    Case(
        f"Qwen3-0.6B T{t}", "forward", {"T": t, "D": WIDTH}, "copy", 12.0 * t * WIDTH, ("torch add", "numpy add")
    )
    for t in (2048, 16384)
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    shape = case.shape["T"], case.shape["D"]
    return {"a": normal(shape, 1), "b": normal(shape, 2)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    y = empty(*x["a"].shape)

    def run() -> Mapping[str, Array]:
        _core.add(x["a"], x["b"], y)
        return {"y": y}

    return run


def in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    import torch

    y = torch.empty_like(x["a"])
    return lambda: {"y": torch.add(x["a"], x["b"], out=y)}


def in_numpy(case: Case, x: Mapping[str, Array]) -> Run:
    y = np.empty_like(x["a"])
    return lambda: {"y": np.add(x["a"], x["b"], out=y)}


PEERS = {"torch add": in_torch, "numpy add": in_numpy}
