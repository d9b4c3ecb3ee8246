"""Every expert's product on the rows that were sent to it: y = x W_e^T, and back to the rows dx = dy W_e.

Arithmetic: 2 T k I O for each of the two products. Rows are spread over experts as random tokens are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

QWEN = SHAPES["Qwen3-30B-A3B"]
WIDE, NARROW = QWEN["hidden_size"], QWEN["moe_intermediate_size"]
SIZES = {  # model and projection: experts, picked per token, wide in, wide out
    "Qwen3-30B-A3B gate_proj": (128, 8, WIDE, NARROW),
    "Qwen3-30B-A3B down_proj": (128, 8, NARROW, WIDE),
    "16 experts of 64": (16, 4, 128, 64),
}
FLOAT32 = [
    Case(
        f"{name}{' bfloat16 weights' if half else ''} T{t}", direction,
        {"T": t, "E": e, "k": k, "I": i, "O": o, "half": half}, "fma", 2.0 * t * k * i * o * products,
        ("torch loop", "torch grouped_mm", *(("numpy loop",) if t <= 512 else ())),
        long=direction == "forward" or half or t != 512 or name.endswith("down_proj"),
    )
    for name, t, half in (
        *((name, 512, half) for half in (False, True) for name in list(SIZES)[:2]),
        ("Qwen3-30B-A3B gate_proj", 2048, False),
        ("16 experts of 64", 64, False), ("16 experts of 64", 64, True),
    )
    for e, k, i, o in (SIZES[name],)
    for direction, products in (("forward", 1), ("f+b", 2))
]  # fmt: skip
BFLOAT16 = [replace(case.in_bfloat16("torch loop"), long=True) for case in FLOAT32 if case.shape["half"]]
CASES = FLOAT32 + BFLOAT16


def inputs(case: Case) -> dict[str, Array]:
    t, e, k, i, o = (case.shape[name] for name in "TEkIO")
    chosen = np.argsort(normal((t, e), 4), axis=1)[:, :k]
    counts = np.bincount(chosen.ravel(), minlength=e)
    weights = normal((e, o, i), 2, i**-0.5)
    if case.shape["half"]:  # by its bits: not every library shares numpy's bfloat16
        weights = (weights.view(np.uint32) >> 16).astype(np.uint16)
    return {
        "x": normal((t * k, i), 1), "weights": weights, "dy": normal((t * k, o), 3),
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import ml_dtypes

    from attnedit import _core

    weights = list(x["weights"].view(ml_dtypes.bfloat16) if case.shape["half"] else x["weights"])
    answers = {"y": empty(*x["dy"].shape)}
    if case.backward:
        answers["dx"] = empty(*x["x"].shape)

    def run() -> Mapping[str, Array]:
        _core.grouped_gemm_forward(x["x"], x["offsets"], weights, answers["y"], case.dtype)
        if case.backward:
            _core.grouped_gemm_input_backward(x["dy"], x["offsets"], weights, False, answers["dx"], case.dtype)
        return answers

    return run


def groups(x: Mapping[str, Any]) -> Iterator[tuple[int, slice]]:
    ends = [int(end) for end in x["offsets"]]
    return ((e, slice(a, b)) for e, (a, b) in enumerate(pairwise(ends)) if a < b)


def torch_loop(case: Case, x: Mapping[str, Any]) -> Run:
    import torch
    from torch.nn import functional

    each = list(groups(x))
    half = case.shape["half"]

    def function(x: Any, weights: Any, offsets: Any) -> Mapping[str, Any]:
        stored = weights.view(torch.bfloat16) if half else weights
        return {"y": torch.cat([functional.linear(x[rows], stored[e].to(x.dtype)) for e, rows in each])}

    return torch_run(case, x, ("x",) if case.backward else (), function)


def grouped_mm(case: Case, x: Mapping[str, Any]) -> Run:
    """What transformers runs by default."""
    import torch
    from torch.nn import functional

    half = case.shape["half"]

    def function(x: Any, weights: Any, offsets: Any) -> Mapping[str, Any]:
        stored = weights.view(torch.bfloat16).float() if half else weights
        return {"y": functional.grouped_mm(x, stored.transpose(1, 2), offs=offsets[1:])}

    return torch_run(case, x, ("x",) if case.backward else (), function)


def numpy_loop(case: Case, x: Mapping[str, Array]) -> Run:
    each = list(groups(x))

    def widened(e: int) -> Array:
        weight = x["weights"][e]
        return (weight.astype(np.uint32) << 16).view(np.float32) if case.shape["half"] else weight

    def run() -> Mapping[str, Array]:
        answers = {"y": np.empty_like(x["dy"])}
        for e, rows in each:
            np.matmul(x["x"][rows], widened(e).T, out=answers["y"][rows])
        if case.backward:
            answers["dx"] = np.empty_like(x["x"])
            for e, rows in each:
                np.matmul(x["dy"][rows], widened(e), out=answers["dx"][rows])
        return answers

    return run


PEERS = {"torch loop": torch_loop, "torch grouped_mm": grouped_mm, "numpy loop": numpy_loop}
