"""RMS norm over a whole row, and head by head as Qwen3's queries have it.

Bytes: x read and y written; back, dy and x read and dx written.
"""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, torch_run, zeros

EPS = 1e-6
QWEN = SHAPES["Qwen3-0.6B"]
WIDTHS = {
    "rows": (QWEN["hidden_size"],) * 2,
    "heads": (QWEN["num_attention_heads"] * QWEN["head_dim"], QWEN["head_dim"]),
}
CASES = [
    Case(
        f"Qwen3-0.6B {part} T{t}", direction, {"T": t, "D": width, "over": over}, "copy", 4.0 * t * width * streams,
        ("torch rms_norm", "torch as models write it"), long=direction == "forward" or t < 8192,
    )
    for part, t in (("rows", 2048), ("rows", 16384), ("heads", 8192))
    for width, over in [WIDTHS[part]]
    for direction, streams in (("forward", 2), ("f+b", 5))
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    t, d, over = (case.shape[k] for k in ("T", "D", "over"))
    return {"x": normal((t, d), 1), "weight": normal((over,), 2), "dy": normal((t, d), 3)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers, rstd = {"y": empty(*x["x"].shape)}, empty(x["x"].size // case.shape["over"])
    if case.backward:
        answers |= {"dx": empty(*x["x"].shape), "dweight": zeros(case.shape["over"])}

    def run() -> Mapping[str, Array]:
        _core.rms_norm_forward(x["x"], x["weight"], EPS, answers["y"], rstd)
        if case.backward:
            _core.rms_norm_backward(x["dy"], x["x"], x["weight"], rstd, answers["dx"], answers["dweight"])
        return answers

    return run


def in_torch(case: Case, x: Mapping[str, Any], fused: bool) -> Run:
    import torch
    from torch.nn import functional

    over = case.shape["over"]

    def function(x: Any, weight: Any) -> Mapping[str, Any]:
        rows = x.unflatten(1, (-1, over))
        if fused:
            y = functional.rms_norm(rows, (over,), weight, EPS)
        else:
            y = weight * (rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + EPS))
        return {"y": y.flatten(1)}

    return torch_run(case, x, ("x", "weight") if case.backward else (), function)


PEERS = {
    "torch rms_norm": lambda case, x: in_torch(case, x, fused=True),
    "torch as models write it": lambda case, x: in_torch(case, x, fused=False),
}
