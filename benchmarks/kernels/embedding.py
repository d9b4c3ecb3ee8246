"""Rows of the table by token. Bytes: rows read and y written; back, dy read, rows of the gradient read and written.

torch's gradient is a fresh table of zeros each time; ours is added to the one that the optimizer keeps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run, zeros

QWEN = SHAPES["Qwen3-0.6B"]
CASES = [
    Case(
        f"Qwen3-0.6B T{t} V{v}", direction, {"T": t, "D": d, "V": v}, "copy", 4.0 * t * d * streams,
        ("torch embedding", "numpy take") if direction == "forward" else ("torch embedding",),
        long=t < 16384 or direction == "forward",
    )
    for t in (2048, 16384)
    for d, v in [(QWEN["hidden_size"], QWEN["vocab_size"])]
    for direction, streams in (("forward", 2), ("f+b", 5))
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    t, d, v = (case.shape[k] for k in "TDV")
    tokens = np.random.default_rng(1).integers(0, v, (1, t)).astype(np.int32)
    return {"tokens": tokens, "table": normal((v, d), 2), "dy": normal((1, t, d), 3)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers = {"y": empty(*x["dy"].shape)}
    if case.backward:
        answers["dtable"] = zeros(*x["table"].shape)

    def run() -> Mapping[str, Array]:
        _core.embedding_forward(x["tokens"], x["table"], answers["y"])
        if case.backward:
            _core.embedding_backward(x["dy"], x["tokens"], answers["dtable"])
        return answers

    return run


def in_torch(case: Case, x: Mapping[str, Any]) -> Run:
    from torch.nn import functional

    wanted = ("table",) if case.backward else ()
    return torch_run(case, x, wanted, lambda tokens, table: {"y": functional.embedding(tokens, table)})


PEERS = {"torch embedding": in_torch, "numpy take": lambda case, x: lambda: {"y": x["table"][x["tokens"]]}}
