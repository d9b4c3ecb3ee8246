"""The projections of a layer: y = x weight^T forward; dy weight and dy^T x backward.

Arithmetic: 2 T I O for each of the three products.
"""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, torch_run, zeros

QWEN, MLA, LARGE, SMALL = (SHAPES[name] for name in ("Qwen3-0.6B", "Qwen3-0.6B as MLA", "Qwen3-8B", "demo teacher"))
HIDDEN = QWEN["hidden_size"]
PROJECTIONS = {  # model, projection: tokens, wide in, wide out
    ("Qwen3-0.6B", "q_proj"): (2048, HIDDEN, QWEN["num_attention_heads"] * QWEN["head_dim"]),
    ("Qwen3-0.6B", "gate_proj"): (2048, HIDDEN, QWEN["intermediate_size"]),
    ("Qwen3-0.6B", "down_proj"): (2048, QWEN["intermediate_size"], HIDDEN),
    ("Qwen3-0.6B as MLA", "kv_a_proj"): (2048, HIDDEN, MLA["kv_lora_rank"] + MLA["qk_rope_head_dim"]),
    ("Qwen3-0.6B as MLA", "kv_b_proj"): (
        2048, MLA["kv_lora_rank"], MLA["num_attention_heads"] * (MLA["qk_nope_head_dim"] + MLA["v_head_dim"]),
    ),
    ("Qwen3-8B", "q_proj"): (1024, LARGE["hidden_size"], LARGE["num_attention_heads"] * LARGE["head_dim"]),
    ("demo teacher", "gate_proj"): (512, SMALL["hidden_size"], SMALL["intermediate_size"]),
}  # fmt: skip
FLOAT32 = [
    Case(
        f"{model} {projection} T{t}", direction, {"T": t, "I": i, "O": o}, "fma", 2.0 * t * i * o * products,
        ("torch linear", "numpy matmul"),
        long=direction == "forward" or model == "demo teacher" or projection in ("down_proj", "kv_a_proj"),
    )
    for (model, projection), (t, i, o) in PROJECTIONS.items()
    for direction, products in (("forward", 1), ("f+b", 3))
]  # fmt: skip
CASES = FLOAT32 + [case.in_bfloat16("torch linear") for case in FLOAT32]


def inputs(case: Case) -> dict[str, Array]:
    t, i, o = (case.shape[k] for k in "TIO")
    return {"x": normal((t, i), 1), "weight": normal((o, i), 2, i**-0.5), "dy": normal((t, o), 3)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers = {"y": empty(*x["dy"].shape)}
    if case.backward:
        answers |= {"dx": empty(*x["x"].shape), "dweight": zeros(*x["weight"].shape)}

    def run() -> Mapping[str, Array]:
        _core.gemm_forward(x["x"], x["weight"], None, answers["y"], case.dtype)
        if case.backward:
            _core.gemm_input_backward(x["dy"], x["weight"], answers["dx"], case.dtype)
            _core.gemm_weight_backward(x["dy"], x["x"], answers["dweight"], None, case.dtype)
        return answers

    return run


def linear(case: Case, x: Mapping[str, Any]) -> Run:
    from torch.nn import functional

    wanted = ("x", "weight") if case.backward else ()
    return torch_run(case, x, wanted, lambda x, weight: {"y": functional.linear(x, weight)})


def matmul(case: Case, x: Mapping[str, Array]) -> Run:
    def run() -> Mapping[str, Array]:
        answers = {"y": x["x"] @ x["weight"].T}
        if case.backward:
            answers |= {"dx": x["dy"] @ x["weight"], "dweight": x["dy"].T @ x["x"]}
        return answers

    return run


PEERS = {"torch linear": linear, "numpy matmul": matmul}
