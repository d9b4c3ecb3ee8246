"""Squared error between logits under one frozen head, with the gradient to the student's hidden states.

Arithmetic of the definition over the head's Gram matrix, which is built once, outside the clock: one product N x D x D.
torch makes both logits, 3 N x D x V, for that is how it is written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run


def case_of(model: str, tokens: int, **options: Any) -> Case:
    m = SHAPES[model]
    shape = {"N": tokens, "D": m["hidden_size"], "V": m["vocab_size"]}
    name = f"{model} T{tokens} V{shape['V']}"
    work = 2.0 * tokens * shape["D"] ** 2
    return Case(name, "loss+dH", shape, "fma", work, ("torch logits, mse_loss",), **options)


CASES = [case_of("demo teacher", 512, long=True), case_of("Qwen3-0.6B", 512, kept=False)]


def inputs(case: Case) -> dict[str, Array]:
    n, d, v = (case.shape[k] for k in "NDV")
    return {
        "student": normal((n, d), 1), "teacher": normal((n, d), 2), "head": normal((v, d), 3, 1.6 / d**0.5),
        "weights": np.full(n, 1 / n, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers, matrix = {"loss": empty(1), "dstudent": empty(*x["student"].shape)}, empty(*(case.shape["D"],) * 2)
    _core.gram(x["head"], matrix)

    def run() -> Mapping[str, Array]:
        _core.logit_mse(x["student"], x["teacher"], matrix, case.shape["V"], x["weights"], *answers.values())
        return answers

    return run


def as_written_in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    import torch
    from torch.nn import functional

    def function(student: Any, teacher: Any, head: Any, weights: Any) -> Mapping[str, Any]:
        with torch.no_grad():
            target = teacher @ head.T
        return {"loss": functional.mse_loss(student @ head.T, target)}

    return torch_run(case, x, ("student",), function)


PEERS = {"torch logits, mse_loss": as_written_in_torch}
