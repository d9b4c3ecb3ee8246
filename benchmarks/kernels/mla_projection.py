"""What latent attention does around its products: compress (norm and rotary key) and expand (every head's key and
value). Bytes: what goes in is read, what comes out is written; back, all gradients and compress's input once more."""

from collections.abc import Mapping
from typing import Any

from case import SHAPES, Array, Case, Run, empty, normal, rotary_tables, torch_run, zeros

EPS = 1e-6
M = SHAPES["Qwen3-0.6B as MLA"]
H, R, P, KN, KV = (
    M[k] for k in ("num_attention_heads", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
)
FLOATS = {  # a token's: (step, direction)
    ("compress", "forward"): 2 * (R + P), ("compress", "f+b"): 5 * (R + P),
    ("expand", "forward"): H * (KN + KV) + P + H * (KN + P + KV),
    ("expand", "f+b"): 2 * (H * (KN + KV) + P + H * (KN + P + KV)),
}  # fmt: skip
CASES = [
    Case(
        f"Qwen3-0.6B as MLA {step} T{t}", direction, {"T": t, "step": step}, "copy",
        4.0 * t * FLOATS[step, direction], ("torch as models write it",), long=direction == "forward",
    )
    for step, times in (("compress", (2048, 16384)), ("expand", (1024, 4096)))
    for t in times
    for direction in ("forward", "f+b")
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    t = case.shape["T"]
    if case.shape["step"] == "expand":
        return {
            "kv": normal((1, t, H * (KN + KV)), 1), "k_rope": normal((1, t, P), 2),
            "dk": normal((1, t, H * (KN + P)), 3), "dv": normal((1, t, H * KV), 4),
        }  # fmt: skip
    cos, sin = rotary_tables(t, P)
    return {
        "kv_a": normal((1, t, R + P), 1), "weight": normal((R,), 2), "cos": cos, "sin": sin,
        "dlatent": normal((1, t, R), 3), "dk_rope": normal((1, t, P), 4),
    }  # fmt: skip


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    return (expand if case.shape["step"] == "expand" else compress)(case, x)


def compress(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    t = case.shape["T"]
    answers, rstd = {"latent": empty(1, t, R), "k_rope": empty(1, t, P)}, empty(1, t)
    if case.backward:
        answers |= {"dkv_a": empty(1, t, R + P), "dweight": zeros(R)}

    def run() -> Mapping[str, Array]:
        _core.mla_compress_forward(
            x["kv_a"], x["weight"], EPS, x["cos"], x["sin"], 0, answers["latent"], rstd, answers["k_rope"]
        )
        if case.backward:
            _core.mla_compress_backward(
                x["dlatent"], x["dk_rope"], x["kv_a"], x["weight"], rstd, x["cos"], x["sin"], 0, answers["dkv_a"],
                answers["dweight"],
            )  # fmt: skip
        return answers

    return run


def expand(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    answers = {"k": empty(*x["dk"].shape), "v": empty(*x["dv"].shape)}
    if case.backward:
        answers |= {"dkv": empty(*x["kv"].shape), "dk_rope": empty(*x["k_rope"].shape)}

    def run() -> Mapping[str, Array]:
        _core.mla_expand_forward(x["kv"], x["k_rope"], H, answers["k"], answers["v"])
        if case.backward:
            _core.mla_expand_backward(x["dk"], x["dv"], H, answers["dkv"], answers["dk_rope"])
        return answers

    return run


def as_models_write_it(case: Case, x: Mapping[str, Any]) -> Run:
    import torch
    from torch.nn import functional

    def compressed(kv_a: Any, weight: Any, cos: Any, sin: Any) -> Mapping[str, Any]:
        latent, turned = kv_a.split([R, P], dim=-1)
        a, b = turned[..., 0::2], turned[..., 1::2]
        k_rope = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        return {"latent": functional.rms_norm(latent, (R,), weight, EPS), "k_rope": k_rope}

    def expanded(kv: Any, k_rope: Any) -> Mapping[str, Any]:
        key, value = kv.unflatten(2, (H, KN + KV)).split([KN, KV], dim=-1)
        k = torch.cat((key, k_rope.unsqueeze(2).expand(-1, -1, H, -1)), -1)
        return {"k": k.flatten(2), "v": value.flatten(2)}

    if case.shape["step"] == "expand":
        return torch_run(case, x, ("kv", "k_rope") if case.backward else (), expanded)
    return torch_run(case, x, ("kv_a", "weight") if case.backward else (), compressed)


PEERS = {"torch as models write it": as_models_write_it}
