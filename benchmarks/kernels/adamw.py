"""One AdamW step. Bytes: parameter, gradient and both moments read; all four written, for our pass leaves the gradient
zero for the next step. torch's step is timed without its zero_grad, as `set_to_none` makes that free."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import Array, Case, Run, normal

RATE, BETA1, BETA2, EPS = 1e-4, 0.9, 0.95, 1e-8
CASES = [
    Case(f"{n} Mi parameters", "step", {"n": n << 20}, "mixed", 32.0 * (n << 20), peers)
    for n, peers in ((1, ("torch fused", "torch default")), (64, ("torch fused",)))
]


def inputs(case: Case) -> dict[str, Array]:
    n = case.shape["n"]
    return {
        "parameter": normal((n,), 1), "gradient": normal((n,), 2), "m": np.zeros(n, np.float32),
        "v": np.zeros(n, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    step = 0

    def run() -> Mapping[str, Array]:
        nonlocal step
        step += 1
        _core.adamw(x["parameter"], x["gradient"], x["m"], x["v"], None, RATE, BETA1, BETA2, EPS, 0.0, step)
        return {"parameter": x["parameter"]}

    return run


def in_torch(case: Case, x: Mapping[str, Any], fused: bool) -> Run:
    import torch

    # The step changes them, and the other peer of this process begins with them too.
    x = {name: value.clone() for name, value in x.items()}
    parameter = x["parameter"].requires_grad_()
    parameter.grad = x["gradient"]
    optimizer = torch.optim.AdamW(
        [parameter], RATE, betas=(BETA1, BETA2), eps=EPS, weight_decay=0.0, fused=True if fused else None
    )
    # The moments that every side was given, instead of ones made at the first step.
    optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": x["m"], "exp_avg_sq": x["v"]}

    def run() -> Mapping[str, Any]:
        optimizer.step()
        return {"parameter": parameter.detach()}

    return run


PEERS = {
    "torch fused": lambda case, x: in_torch(case, x, fused=True),
    "torch default": lambda case, x: in_torch(case, x, fused=False),
}
