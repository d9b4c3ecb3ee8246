"""One AdamW step. Bytes: parameter, gradient and both moments read; all four written, for our pass leaves the gradient
zero for the next step. torch's step is timed without its zero_grad, as `set_to_none` leaves that to the next backward.

"gradient kept": ours without the zero, the same work as torch's. "bf16 weights": the same for a float32 master that is
also rounded into the bfloat16 weight, in one pass; torch has that as a fused step and a copy.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import Array, Case, Run, normal

RATE, BETA1, BETA2, EPS = 1e-4, 0.9, 0.95, 1e-8


def case_of(mi: int, note: str, bytes_each: float, peers: tuple[str, ...], long: bool = False) -> Case:
    n = mi << 20
    shape = {"n": n, "zero": not note, "half": note == " bf16 weights"}
    return Case(f"{mi} Mi parameters{note}", "step", shape, "mixed", bytes_each * n, peers, long=long)


CASES = [
    case_of(1, "", 32, ("torch fused", "torch default")),
    case_of(64, "", 32, ("torch fused",)),
    case_of(64, " gradient kept", 28, ("torch fused",)),
    case_of(1, " bf16 weights", 30, ("torch fused and copy",), long=True),
    case_of(64, " bf16 weights", 30, ("torch fused and copy",)),
]


def inputs(case: Case) -> dict[str, Array]:
    n = case.shape["n"]
    return {
        "parameter": normal((n,), 1), "gradient": normal((n,), 2), "m": np.zeros(n, np.float32),
        "v": np.zeros(n, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import ml_dtypes

    from attnedit import _core

    step = 0
    rounded = _core.empty(x["parameter"].shape, np.dtype(ml_dtypes.bfloat16)) if case.shape["half"] else None

    def run() -> Mapping[str, Array]:
        nonlocal step
        step += 1
        _core.adamw(
            x["parameter"], x["gradient"], x["m"], x["v"], None, rounded, RATE, BETA1, BETA2, EPS, 0.0, step,
            case.shape["zero"],
        )  # fmt: skip
        return {"parameter": x["parameter"]} | ({} if rounded is None else {"rounded": rounded})

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

    rounded = torch.empty_like(parameter, dtype=torch.bfloat16) if case.shape["half"] else None

    def run() -> Mapping[str, Any]:
        optimizer.step()
        if rounded is None:
            return {"parameter": parameter.detach()}
        rounded.copy_(parameter.detach())
        return {"parameter": parameter.detach(), "rounded": rounded}

    return run


PEERS = {
    "torch fused": lambda case, x: in_torch(case, x, fused=True),
    "torch fused and copy": lambda case, x: in_torch(case, x, fused=True),
    "torch default": lambda case, x: in_torch(case, x, fused=False),
}
