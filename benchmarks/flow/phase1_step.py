"""A whole phase-1 step of one layer: Qwen3-0.6B's attention -> MLA, 2 rows of 2,048 tokens.

Norm of the teacher's hidden state, the student's attention forward, its error against the teacher's output, backward
and AdamW. The teacher's activations are given, as `layerwise` has them on disk. Peers: the stock class of
transformers, `eager` and sdpa. The answer is the error before the first update and after it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from case import Array, Case, Run, normal
from flow.qwen3_to_mla import (
    CONFIG,
    HEADS,
    KEY,
    LATENT,
    QWEN,
    RATE,
    attention_work,
    deepseek_config,
    drawn,
    each,
    matrix_sizes,
    torch_adamw,
    torch_peers,
    torch_step,
)


def work(rows: int, length: int) -> float:
    """Products forward and to the weights; back to activations only behind the layer's first products."""
    _, latent, behind, _ = matrix_sizes()
    return rows * (2.0 * length * (2 * latent + behind) + attention_work(length, KEY, LATENT["v_head_dim"], True))


def step_of(rows: int, length: int, **options: Any) -> Case:
    return Case(
        f"one Qwen3-0.6B layer as MLA, {rows} rows of T{length}", "step", {"rows": rows, "length": length}, "fma",
        work(rows, length), ("torch eager",), tolerance=1e-3, steps=True, **options,
    )  # fmt: skip


STEP, SMALL = step_of(2, 2048), step_of(2, 64, long=True)
CASES = [
    STEP,
    replace(STEP.in_bfloat16("torch autocast"), kept=False),
    replace(STEP, peers=("torch sdpa, fused AdamW",), long=True),
    SMALL,
    SMALL.in_bfloat16("torch autocast"),
]


def inputs(case: Case) -> dict[str, Array]:
    shape = case.shape["rows"], case.shape["length"], QWEN["hidden_size"]
    return {"hidden": normal(shape, 1), "target": normal(shape, 2)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import attnedit as ae
    from attnedit import ops
    from attnedit.autograd import backward, no_grad
    from attnedit.distill.optimizer import Optimizer
    from attnedit.nn import MLA, MLAConfig, RMSNorm, Rope, RopeParameters
    from attnedit.tensor import Tensor, full, tensor

    rope = Rope(RopeParameters(rope_theta=CONFIG["rope_theta"]), LATENT["qk_rope_head_dim"])
    attention = MLA(QWEN["hidden_size"], MLAConfig(num_attention_heads=HEADS, **LATENT), rope)
    for name, parameter in list(attention.named_parameters()):
        attention.set_parameter(name, tensor(drawn(name, parameter.shape), requires_grad=True))
    norm = RMSNorm(QWEN["hidden_size"], CONFIG["rms_norm_eps"])
    norm.set_parameter("weight", full((QWEN["hidden_size"],), 1.0))
    optimizer = Optimizer(dict(attention.named_parameters()))
    weights = full((case.shape["rows"] * case.shape["length"],), 1.0)

    def step() -> float:
        with no_grad():
            u = norm(Tensor(x["hidden"]))
        with ae.compute(case.dtype):
            loss = ops.fused_mse(attention(u), Tensor(x["target"]), weights).loss
            backward([loss])
        optimizer.step(RATE)
        return loss.item()

    return each("nmse", step)


def in_transformers(case: Case, x: Mapping[str, Any], kind: str, fused: bool) -> Run:
    import torch
    from torch.nn import functional
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as stock

    config, length = deepseek_config(kind), case.shape["length"]
    attention = stock.DeepseekV3Attention(config, layer_idx=0)
    for name, parameter in attention.named_parameters():
        parameter.data.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape))))
    positions = stock.DeepseekV3RotaryEmbedding(config)(x["hidden"], torch.arange(length)[None])
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None] if kind == "eager" else None
    weight = torch.ones(QWEN["hidden_size"])
    optimizer = torch_adamw(list(attention.parameters()), fused)

    def loss_of() -> Any:
        u = functional.rms_norm(x["hidden"], weight.shape, weight, CONFIG["rms_norm_eps"])
        y = attention(u, positions, causal)[0]
        loss = (y - x["target"]).pow(2).sum() / x["target"].pow(2).sum()
        return loss

    return each("nmse", torch_step(case, loss_of, optimizer))


PEERS = torch_peers(in_transformers)
