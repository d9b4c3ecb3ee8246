"""A whole phase-2 step: a Qwen3 teacher, a student with MLA whose attention trains; 8 layers of Qwen3-0.6B's width.

Teacher forward, student forward, exact KL over 151,936 tokens, backward and AdamW, for one row of 1,024
tokens. Peers: `eager`, as most people write it, and sdpa with a fused AdamW; both share the frozen weights between
teacher and student, as we do. The answer is the KL before the first update and after it. Extra memory is the whole
model's, since the weights are made inside.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from case import Array, Case, Run
from flow.qwen3_to_mla import (
    KEY,
    LATENT,
    LAYERS,
    QWEN,
    RATE,
    attention_work,
    config_of,
    deepseek_config,
    drawn,
    each,
    filled,
    matrix_sizes,
    torch_adamw,
    torch_peers,
    torch_step,
)


def work(layers: int, length: int) -> float:
    """Products of teacher, student (forward, back to activations, to the attention's weights) and KL."""
    grouped, latent, _, mlp = matrix_sizes()
    matrices = 2.0 * length * (grouped + mlp + 3 * latent + 2 * mlp)
    head = QWEN["head_dim"]
    scores = attention_work(length, head, head, False) + attention_work(length, KEY, LATENT["v_head_dim"], True)
    return layers * (matrices + scores) + 6.0 * length * QWEN["hidden_size"] * config_of(layers)["vocab_size"]


def step_of(layers: int, length: int, **options: Any) -> Case:
    shape = {"layers": layers, "length": length, "recompute": False}
    return Case(
        f"Qwen3-0.6B width, {layers} layers T{length}", "step", shape, "fma", work(layers, length), ("torch eager",),
        tolerance=1e-3, steps=True, **options,
    )  # fmt: skip


def recomputed(step: Case, **options: Any) -> Case:
    return replace(step, name=f"{step.name}, blocks recomputed", shape=step.shape | {"recompute": True}, **options)


STEP, SMALL = step_of(LAYERS, 1024), step_of(2, 32, long=True)
CASES = [
    STEP,
    replace(STEP.in_bfloat16("torch autocast"), kept=False),
    recomputed(STEP, peers=(), long=True),
    recomputed(STEP, peers=(), long=True).in_bfloat16(),
    replace(STEP, peers=("torch sdpa, fused AdamW",), long=True),
    *(case for small in (SMALL, recomputed(SMALL)) for case in (small, small.in_bfloat16("torch autocast"))),
]


def inputs(case: Case) -> dict[str, Array]:
    length, tokens = case.shape["length"], config_of(case.shape["layers"])["vocab_size"]
    return {"tokens": np.random.default_rng(1).integers(0, tokens, (1, length)).astype(np.int32)}


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import attnedit as ae
    from attnedit import ops
    from attnedit.autograd import backward, no_grad
    from attnedit.distill.optimizer import Optimizer
    from attnedit.models import Decoder
    from attnedit.models.qwen3 import decoder_config
    from attnedit.tensor import full, tensor

    teacher = Decoder(decoder_config(config_of(case.shape["layers"])))
    for name, parameter in list(teacher.named_parameters()):
        teacher.set_parameter(name, tensor(drawn(name, parameter.shape)))
    student = ae.edit(teacher, ae.MLA(**LATENT, init="random"))
    for name, parameter in list(student.named_parameters()):
        if ".self_attn." in name:
            student.set_parameter(name, tensor(drawn(f"student.{name}", parameter.shape), requires_grad=True))
    optimizer = Optimizer({path: p for path, p in student.named_parameters() if p.requires_grad})
    weights = full((case.shape["length"],), 1 / case.shape["length"])

    def step() -> float:
        with ae.compute(case.dtype):
            with no_grad():
                theirs = teacher(x["tokens"])
            ours = student(x["tokens"], recompute_blocks=case.shape["recompute"])
            loss = ops.fused_kl(ours, student.head, theirs, teacher.head, weights).loss
            backward([loss])
        optimizer.step(RATE)
        return loss.item()

    return each("kl", step)


def in_transformers(case: Case, x: Mapping[str, Any], attention: str, fused: bool) -> Run:
    import torch
    import transformers
    from torch.nn import functional

    teacher_config = transformers.Qwen3Config(**config_of(case.shape["layers"]))
    teacher_config._attn_implementation = attention
    shared: dict[str, Any] = {}
    teacher = filled(transformers.Qwen3ForCausalLM, teacher_config, shared).eval()
    student = filled(transformers.DeepseekV3ForCausalLM, deepseek_config(attention, case.shape["layers"]), shared)
    optimizer = torch_adamw([p for p in student.parameters() if p.requires_grad], fused)
    batch = x["tokens"].long()

    def loss_of() -> Any:
        with torch.no_grad():
            theirs = functional.log_softmax(teacher(batch, use_cache=False).logits[0], dim=-1)
        logs = functional.log_softmax(student(batch, use_cache=False).logits[0], dim=-1)
        loss = functional.kl_div(logs, theirs, reduction="batchmean", log_target=True)
        return loss

    return each("kl", torch_step(case, loss_of, optimizer))


PEERS = torch_peers(in_transformers)
