"""The feature losses with their gradient: energy-normalised squared error, and cosine.

Bytes: student and teacher read, the gradient written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

WIDTH = SHAPES["Qwen3-0.6B"]["hidden_size"]
CASES = [
    Case(
        f"Qwen3-0.6B {loss} T{t}", "loss+gradient", {"T": t, "D": WIDTH, "loss": loss}, "copy", 12.0 * t * WIDTH,
        ("torch as written",), long=t < 16384,
    )
    for loss in ("mse", "cosine")
    for t in (2048, 16384)
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    t, d = case.shape["T"], case.shape["D"]
    teacher = normal((t, d), 2)
    return {
        "student": teacher + normal((t, d), 1, 0.5), "teacher": teacher, "weights": np.full(t, 1 / t, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers, energy = {"loss": empty(1), "dstudent": empty(*x["student"].shape)}, empty(2)

    def run() -> Mapping[str, Array]:
        if case.shape["loss"] == "cosine":
            _core.cosine_loss(x["student"], x["teacher"], x["weights"], *answers.values())
        else:
            _core.fused_mse(
                x["student"], x["teacher"], x["weights"], 1e-12, answers["loss"], energy, answers["dstudent"]
            )
        return answers

    return run


def as_written(case: Case, x: Mapping[str, Any]) -> Run:
    from torch.nn import functional

    def function(student: Any, teacher: Any, weights: Any) -> Mapping[str, Any]:
        if case.shape["loss"] == "cosine":
            return {"loss": (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()}
        return {"loss": (student - teacher).pow(2).sum() / teacher.pow(2).sum()}

    return torch_run(case, x, ("student",), function)


PEERS = {"torch as written": as_written}
