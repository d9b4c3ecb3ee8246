"""Divergence over the whole vocabulary, from hidden states and one frozen head that teacher and student share.

Arithmetic: two products of N x D x V for the logits, one more for the hidden gradient, one more for the head's. The
fused kernel makes logits again instead of keeping them; that is its own affair and not counted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run, zeros

PRODUCTS = {"loss": 2, "loss+dH": 3, "loss+dH+dW": 4}


def cases_of(
    model: str, tokens: int, directions: tuple[str, ...], vocabulary: int | None = None,
    peers: tuple[str, ...] = ("torch log_softmax, kl_div",), **options: Any,
) -> list[Case]:  # fmt: skip
    m = SHAPES[model]
    shape = {"N": tokens, "D": m["hidden_size"], "V": vocabulary or m["vocab_size"]}
    name = f"{model} T{tokens} V{shape['V']}"
    work = 2.0 * shape["N"] * shape["D"] * shape["V"]
    return [Case(name, d, shape, "fma", PRODUCTS[d] * work, peers, **options) for d in directions]


MAIN = cases_of("Qwen3-0.6B", 512, ("loss+dH", "loss+dH+dW"))
CASES = [
    *cases_of("demo teacher", 512, ("loss", "loss+dH", "loss+dH+dW"), long=True),
    *MAIN,
    *(case.in_bfloat16(*case.peers) for case in MAIN),
    *(case for v in (16384, 32768, 65536) for case in cases_of("Qwen3-0.6B", 512, ("loss+dH",), v, ())),
    *(case for t in (128, 2048) for case in cases_of("Qwen3-0.6B", t, ("loss+dH",), 16384, ())),
    *cases_of("Qwen3-0.6B", 512, ("loss",), long=True),
    *cases_of("Qwen3-0.6B", 8192, ("loss+dH",), 16384, (), long=True),
    # torch would need six times 5 and 20 GB here
    *(case for t in (2048, 8192, 32768) for case in cases_of("Qwen3-0.6B", t, ("loss+dH",), peers=(), long=True)),
    *cases_of("Qwen3-0.6B", 8192, ("loss+dH+dW",), peers=(), long=True),
]


def inputs(case: Case) -> dict[str, Array]:
    n, d, v = (case.shape[k] for k in "NDV")
    return {
        "student": normal((n, d), 1), "teacher": normal((n, d), 2), "head": normal((v, d), 3, 1.6 / d**0.5),
        "weights": np.full(n, 1 / n, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers = {"loss": empty(1)}
    if "dH" in case.direction:
        answers["dstudent"] = empty(*x["student"].shape)
    if "dW" in case.direction:
        answers["dhead"] = zeros(*x["head"].shape)
    each = empty(case.shape["N"])

    def run() -> Mapping[str, Array]:
        _core.fused_kl(
            x["student"], x["head"], x["teacher"], x["head"], x["weights"], "forward", 1.0, case.dtype,
            answers["loss"], each, answers.get("dstudent"), answers.get("dhead"),
        )  # fmt: skip
        return answers

    return run


def as_written_in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    import torch
    from torch.nn import functional

    def function(student: Any, teacher: Any, head: Any, weights: Any) -> Mapping[str, Any]:
        with torch.no_grad():
            target = functional.log_softmax((teacher @ head.T).float(), dim=-1)
        logs = functional.log_softmax((student @ head.T).float(), dim=-1)
        return {"loss": functional.kl_div(logs, target, reduction="batchmean", log_target=True)}

    return torch_run(case, x, ("student", "head")[: PRODUCTS[case.direction] - 2], function)


PEERS = {"torch log_softmax, kl_div": as_written_in_torch}
