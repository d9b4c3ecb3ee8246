"""Rotary positions on every head: half split over the whole head, and interleaved over the last 64 dims as in MLA.

Bytes: x read and y written; back, dy read and dx written.
"""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, rotary_tables, torch_run

QWEN, MLA = SHAPES["Qwen3-0.6B"], SHAPES["Qwen3-0.6B as MLA"]
FORMS = {  # head size, rotated from, interleaved
    "Qwen3-0.6B": (QWEN["head_dim"], 0, False),
    "Qwen3-0.6B as MLA": (MLA["qk_nope_head_dim"] + MLA["qk_rope_head_dim"], MLA["qk_nope_head_dim"], True),
}
CASES = [
    Case(
        f"{model} T{t}", direction, {"T": t, "H": 16, "K": width, "offset": offset, "interleaved": interleaved}, "copy",
        4.0 * t * 16 * width * streams, ("torch as models write it",), long=direction == "forward",
    )
    for model, (width, offset, interleaved) in FORMS.items()
    for t in (1024, 8192)
    for direction, streams in (("forward", 2), ("f+b", 4))
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    s = case.shape
    cos, sin = rotary_tables(s["T"], s["K"] - s["offset"])
    wide = (1, s["T"], s["H"] * s["K"])
    return {"x": normal(wide, 1), "cos": cos, "sin": sin, "dy": normal(wide, 2)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    s = case.shape
    settings = x["cos"], x["sin"], 0, s["H"], s["offset"], s["interleaved"]
    answers = {"y": empty(*x["x"].shape)}
    if case.backward:
        answers["dx"] = empty(*x["x"].shape)

    def run() -> Mapping[str, Array]:
        _core.rope_forward(x["x"], *settings, answers["y"])
        if case.backward:
            _core.rope_backward(x["dy"], *settings, answers["dx"])
        return answers

    return run


def as_models_write_it(case: Case, x: Mapping[str, Any]) -> Run:
    import torch

    s = case.shape
    repeat = 1 if s["interleaved"] else 2
    cos, sin = (torch.cat([x[name]] * repeat, -1).unsqueeze(1) for name in ("cos", "sin"))

    def function(x: Any, **_: Any) -> Mapping[str, Any]:
        rows = x.unflatten(2, (s["H"], s["K"]))
        if s["interleaved"]:
            still, turned = rows.split([s["offset"], s["K"] - s["offset"]], dim=-1)
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
            y = torch.cat((still, turned), -1)
        else:
            a, b = rows.chunk(2, -1)
            y = rows * cos + torch.cat((-b, a), -1) * sin
        return {"y": y.flatten(2)}

    return torch_run(case, x, ("x",) if case.backward else (), function)


PEERS = {"torch as models write it": as_models_write_it}
