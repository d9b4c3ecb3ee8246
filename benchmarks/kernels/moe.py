"""Around the experts: the router's choice, tokens gathered into rows by expert, answers weighted and added up.

Bytes: logits, x and the answers a read, rows and y written; back, dy read and da written, a and da read for the
weights' gradients and da written again, drows read and dx written, logits read and dlogits written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

WIDTH, EXPERTS, PICKED = SHAPES["Qwen3-30B-A3B"]["hidden_size"], 128, 8
FORWARD = EXPERTS + WIDTH * (2 + 2 * PICKED)
BACKWARD = 2 * EXPERTS + WIDTH * (2 + 5 * PICKED)
CASES = [
    Case(
        f"Qwen3-30B-A3B T{t}", direction, {"T": t}, "copy", 4.0 * t * numbers, ("torch as models write it",),
        long=direction == "forward",
    )
    for t in (128, 2048)
    for direction, numbers in (("forward", FORWARD), ("f+b", FORWARD + BACKWARD))
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    t, rows = case.shape["T"], case.shape["T"] * PICKED
    return {
        "logits": normal((t, EXPERTS), 1), "x": normal((t, WIDTH), 2), "a": normal((rows, WIDTH), 3),
        "dy": normal((t, WIDTH), 4), "drows": normal((rows, WIDTH), 5),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    t, count = case.shape["T"], case.shape["T"] * PICKED
    weights, dweights = empty(t, PICKED), empty(t, PICKED)
    chosen, offsets, slots, rows = (
        _core.empty(shape, np.dtype(np.int32)) for shape in ((t, PICKED), (EXPERTS + 1,), (count,), (count,))
    )
    answers = {"y": empty(t, WIDTH), "rows": empty(count, WIDTH)}
    if case.backward:
        answers |= {f"d{name}": empty(*x[name].shape) for name in ("logits", "x", "a")}

    def run() -> Mapping[str, Array]:
        _core.moe_route_forward(x["logits"], True, weights, chosen, offsets, slots, rows)
        _core.moe_gather(x["x"], slots, answers["rows"])
        _core.moe_combine(x["a"], rows, weights, answers["y"])
        if case.backward:
            _core.moe_gather(x["dy"], slots, answers["da"])
            _core.moe_weigh_backward(x["a"], weights, slots, answers["da"], dweights)
            _core.moe_combine(x["drows"], rows, None, answers["dx"])
            _core.moe_route_backward(dweights, x["logits"], chosen, True, answers["dlogits"])
        return answers

    return run


def as_models_write_it(case: Case, x: Mapping[str, Any]) -> Run:
    import torch

    def function(logits: Any, x: Any, a: Any) -> Mapping[str, Any]:
        weights, chosen = torch.topk(torch.softmax(logits, -1), PICKED)
        weights = weights / weights.sum(-1, keepdim=True)
        slots = torch.argsort(chosen.flatten(), stable=True)
        tokens = slots // PICKED
        y = torch.zeros_like(x).index_add(0, tokens, a * weights.flatten()[slots, None])
        return {"y": y, "rows": x[tokens]}

    return torch_run(case, x, ("logits", "x", "a") if case.backward else (), function)


PEERS = {"torch as models write it": as_models_write_it}
