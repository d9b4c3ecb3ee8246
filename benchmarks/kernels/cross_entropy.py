"""Cross entropy over the whole vocabulary, from hidden states and head.

Arithmetic: a product of N x D x V for the logits, one for the hidden gradient, one for the head's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run, zeros

PRODUCTS = {"loss": 1, "loss+dH": 2, "loss+dH+dW": 3}


def cases_of(
    model: str, tokens: int, directions: tuple[str, ...], vocabulary: int | None = None, **options: Any
) -> list[Case]:
    m = SHAPES[model]
    shape = {"N": tokens, "D": m["hidden_size"], "V": vocabulary or m["vocab_size"]}
    work = 2.0 * shape["N"] * shape["D"] * shape["V"]
    name = f"{model} T{tokens} V{shape['V']}"
    return [Case(name, d, shape, "fma", PRODUCTS[d] * work, ("torch cross_entropy",), **options) for d in directions]


CASES = [
    *cases_of("demo teacher", 512, ("loss", "loss+dH", "loss+dH+dW"), long=True),
    *cases_of("Qwen3-0.6B", 512, ("loss+dH",), 32768),
    *cases_of("Qwen3-0.6B", 512, ("loss", "loss+dH", "loss+dH+dW"), long=True),
]


def inputs(case: Case) -> dict[str, Array]:
    n, d, v = (case.shape[k] for k in "NDV")
    return {
        "hidden": normal((n, d), 1), "head": normal((v, d), 3, 1.6 / d**0.5),
        "labels": np.random.default_rng(2).integers(0, v, n).astype(np.int32),
        "weights": np.full(n, 1 / n, np.float32),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers = {"loss": empty(1)}
    if "dH" in case.direction:
        answers["dhidden"] = empty(*x["hidden"].shape)
    if "dW" in case.direction:
        answers["dhead"] = zeros(*x["head"].shape)
    nll, argmax = empty(case.shape["N"]), _core.empty((case.shape["N"],), np.dtype(np.int32))

    def run() -> Mapping[str, Array]:
        _core.cross_entropy(
            x["hidden"], x["head"], x["labels"], x["weights"], case.dtype, answers["loss"], nll, argmax,
            answers.get("dhidden"), answers.get("dhead"),
        )  # fmt: skip
        return answers

    return run


def as_written_in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    from torch.nn import functional

    labels = x["labels"].long()

    def function(hidden: Any, head: Any, **_: Any) -> Mapping[str, Any]:
        return {"loss": functional.cross_entropy(hidden @ head.T, labels)}

    return torch_run(case, x, ("hidden", "head")[: PRODUCTS[case.direction] - 1], function)


PEERS = {"torch cross_entropy": as_written_in_torch}
