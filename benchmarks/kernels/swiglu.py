"""silu(gate) * up. Bytes: gate and up read and y written; back, dy, gate and up read and both gradients written."""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, torch_run

WIDTH = SHAPES["Qwen3-0.6B"]["intermediate_size"]
CASES = [
    Case(
        f"Qwen3-0.6B T{t}", direction, {"T": t, "D": WIDTH}, "copy", 4.0 * t * WIDTH * streams,
        ("torch as models write it",), long=direction == "forward",
    )
    for t in (512, 8192)
    for direction, streams in (("forward", 3), ("f+b", 8))
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    shape = case.shape["T"], case.shape["D"]
    return {"gate": normal(shape, 1), "up": normal(shape, 2), "dy": normal(shape, 3)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    names = ("y", "dgate", "dup") if case.backward else ("y",)
    answers = {name: empty(*x["dy"].shape) for name in names}

    def run() -> Mapping[str, Array]:
        _core.swiglu_forward(x["gate"], x["up"], answers["y"])
        if case.backward:
            _core.swiglu_backward(x["dy"], x["gate"], x["up"], answers["dgate"], answers["dup"])
        return answers

    return run


def as_models_write_it(case: Case, x: Mapping[str, Any]) -> Run:
    from torch.nn import functional

    wanted = ("gate", "up") if case.backward else ()
    return torch_run(case, x, wanted, lambda gate, up: {"y": functional.silu(gate) * up})


PEERS = {"torch as models write it": as_models_write_it}
