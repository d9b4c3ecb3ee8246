"""Phase 2: the student runs on its own hidden states and learns the teacher's next-token distribution.

loss = tau^2 KL(teacher || student)  over the whole vocabulary, a mean over tokens
     + feature_weight * mean over layers and tokens of 1 - cos(h_S, h_T),   h = block outputs
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from attnedit import ops, runtime
from attnedit.activations import States, forward, grouped
from attnedit.autograd import no_grad, total
from attnedit.checkpoint import give_back
from attnedit.data import Batches, TrainingRows, available, row_length, starts_of, tokens_of
from attnedit.distill.budget import Auto, Rate, Share, Tokens, modelwise_rate, steps_for
from attnedit.distill.loop import Losses, Metrics, NotFinite, Saved, descend, train
from attnedit.distill.optimizer import Method, Optimizer, trainable
from attnedit.distill.schedule import Schedule
from attnedit.models import Decoder
from attnedit.models.decoder import edited_layers, overflow
from attnedit.models.pages import give_back_all
from attnedit.tensor import Array, Tensor, full, tensor

PROBE_ROWS = 16  # training rows on which a phase must not end worse than it began

Trainable = Literal["attention", "attention+norms", "all"]


@dataclass(frozen=True)
class ModelwiseOptions:
    tokens: Tokens = 4_000_000
    learning_rate: Rate | Auto = "auto"  # auto: 0.04 x RMS(o_proj), less for a student that starts near
    batch_tokens: Tokens | Auto = "auto"  # auto: one row a step, up to 8,000 steps
    optimizer: Method = "adamw"  # soap goes further in the same tokens
    feature_weight: Annotated[float, Field(ge=0, le=1e3)] = 0.05
    train: Trainable = "attention"  # all: but experts and their router
    outside_attention: Share = 0.2  # times the rate, for what else trains
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    clip: Annotated[float, Field(gt=0, le=1e30)] = 1.0
    warmup: Share = 0.05
    final: Share = 0.05
    # keep block outputs only, no mapped weights of a block behind its turn, and compute the rest again on the way back
    recompute: bool = False
    # cached: its final hidden states are computed once, into the run folder, and it needs no memory while the student
    # trains. Features are outputs of every block, which only a live teacher has.
    teacher: Literal["live", "cached"] = "live"

    def __post_init__(self) -> None:
        if self.teacher == "cached" and self.feature_weight > 0:
            raise ValueError(f"feature_weight must be 0 with teacher: cached, got {self.feature_weight}")


@dataclass(frozen=True)
class ModelwiseResult:
    probe_kl_before: float
    probe_kl_after: float
    kept: bool  # False: training made it worse on the probe, so the start was put back
    learning_rate: float  # the highest
    steps: int
    rows: int  # a step


def modelwise(
    student: Decoder,
    teacher: Decoder,
    tokens: TrainingRows,
    options: ModelwiseOptions = ModelwiseOptions(),
    folder: Path | None = None,
    seed: int = 0,
    on_step: Callable[[int, int, dict[str, float]], None] | None = None,
) -> ModelwiseResult:
    """Trains the student in place on rows, int32 [R, T] or with documents told apart; with a folder, the same call
    continues after a kill.

    A phase never ends worse than it began: if KL on a few training rows has risen, the start is put back.
    """
    runtime.empty_cache()  # what other steps needed
    before = probe_kl(student, teacher, tokens)
    if not math.isfinite(before):
        rows = tokens_of(tokens, slice(0, available(tokens, PROBE_ROWS)))
        where = overflow(list(rows), teacher=teacher, student=student)
        raise NotFinite(f"[modelwise] kl is {before} before training: {where}")
    edited = edited_layers(student.config, teacher.config)
    runtime.empty_cache()
    start = dict(student.named_parameters())
    parameters, multipliers = _choose(student, edited, options)
    optimizer = Optimizer(parameters, options.optimizer, clip=options.clip, multipliers=multipliers)
    plan = steps_for(options.tokens, row_length(tokens), options.batch_tokens)
    rate = float(modelwise_rate(teacher, edited, before) if options.learning_rate == "auto" else options.learning_rate)
    batches = Batches(tokens, plan.rows, seed)
    cache, used = None, np.array([0])
    if options.teacher == "cached":
        used = np.unique(np.concatenate([batches.numbers(step) for step in range(plan.steps)]))
        scratch = None if folder is None else folder / "activations"
        cache = States(teacher, tokens_of(tokens, used), scratch, starts=starts_of(tokens, used))
        cache.advance(teacher.config.num_hidden_layers)
        runtime.empty_cache()

    def losses_of(step: int) -> Losses:
        rows, numbers, starts = batches.batch(step), batches.numbers(step), batches.starts(step)
        sums: dict[str, Array] = {}
        for part in plan.passes:
            begins = None if starts is None else starts[part]
            known = None if cache is None else partial(_cached, cache, np.searchsorted(used, numbers[part]))
            losses = pass_losses(student, teacher, rows[part], begins, options, rows.size, known)
            for key, loss in descend(losses).items():
                sums[key] = total(sums.get(key), loss.array)
        return {key: Tensor(value) for key, value in sums.items()}

    schedule = Schedule(rate, plan.steps, options.warmup, options.final)
    saved = None if folder is None else Saved(folder)
    metrics = None if folder is None else Metrics(folder / "metrics.jsonl")
    try:
        train("modelwise", losses_of, optimizer, schedule, saved, metrics, on_step)
    except NotFinite:
        _put_back(student, start, parameters)
        raise
    if cache is not None:
        cache.remove()
    for parameter in parameters.values():
        parameter.requires_grad, parameter.grad = False, None
    runtime.empty_cache()
    after = probe_kl(student, teacher, tokens)
    if not after <= before:
        _put_back(student, start, parameters)
    return ModelwiseResult(before, after, after <= before, rate, plan.steps, plan.rows)


def _put_back(student: Decoder, start: Mapping[str, Tensor], trained: Iterable[str]) -> None:
    for path in trained:
        student.set_parameter(path, start[path])


def _cached(cache: States, rows: Array) -> Tensor:
    return tensor(cache.hidden(rows))


def pass_losses(
    student: Decoder,
    teacher: Decoder,
    tokens: Array,
    document_starts: Array | None,
    options: ModelwiseOptions,
    step_tokens: int,
    cached: Callable[[], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The share that a pass, rows int32 [B, T], has in the losses of a step of `step_tokens`.

    cached gives the teacher's last hidden states before its norm, where it need not compute them.
    """
    tokens = np.ascontiguousarray(tokens)
    theirs: list[Tensor] | None = [] if options.feature_weight > 0 else None
    ours: list[Tensor] | None = [] if options.feature_weight > 0 else None
    with no_grad():
        target = teacher.norm(cached()) if cached else teacher(tokens, theirs, options.recompute, None, document_starts)
    hidden = student(tokens, ours, options.recompute, None, document_starts)
    weights = full((tokens.size,), 1 / step_tokens)
    kl = ops.fused_kl(hidden, student.head, target, teacher.head, weights, options.divergence, options.temperature)
    if theirs is None or ours is None:
        return {"kl": kl.loss}
    weights = full((tokens.size,), options.feature_weight / (step_tokens * len(ours)))
    cosines = [ops.cosine_loss(h, t, weights) for h, t in zip(ours, theirs, strict=True)]
    return {"kl": kl.loss, "feature": reduce(ops.add, cosines)}


def probe_kl(student: Decoder, teacher: Decoder, tokens: TrainingRows) -> float:
    """KL(teacher || student), nats per token, on the first rows."""
    sum_kl = 0.0
    first = slice(0, available(tokens, PROBE_ROWS))
    rows, starts = tokens_of(tokens, first), starts_of(tokens, first)
    batches = [np.ascontiguousarray(row[None]) for row in rows]
    begins = None if starts is None else [row[None] for row in starts]
    with no_grad():
        for part in grouped([batch.size for batch in batches], (student, teacher)):
            taken = None if begins is None else begins[part]
            for ours, theirs in zip(*forward((student, teacher), batches[part], starts=taken), strict=True):
                weights = full((ours.size // ours.shape[-1],), 1 / rows.size)
                sum_kl += ops.fused_kl(ours, student.head, theirs, teacher.head, weights).loss.item()
    give_back_all(teacher.lm_head or teacher.embed_tokens)
    return sum_kl


def trained_paths(student: Decoder, edited: list[int], options: ModelwiseOptions) -> set[str]:
    """Of the parameters that train."""
    attention = _attention(edited)

    def chosen(path: str) -> bool:
        if path.startswith(attention):
            return True
        if options.train == "all":
            return not student.frozen(path)
        return options.train == "attention+norms" and (path == "norm.weight" or "layernorm.weight" in path)

    return {path for path, _ in student.named_parameters() if chosen(path)}


def _attention(edited: list[int]) -> tuple[str, ...]:
    return tuple(f"layers.{i}.self_attn." for i in edited)


def _choose(
    student: Decoder, edited: list[int], options: ModelwiseOptions
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Makes the chosen parameters trainable copies; what is not chosen stays shared with the teacher."""
    chosen, multipliers = trained_paths(student, edited, options), {}
    for path, parameter in list(student.named_parameters()):
        if path in chosen:
            student.set_parameter(path, trainable(parameter))
            give_back(parameter.numpy())
            multipliers[path] = 1.0 if path.startswith(_attention(edited)) else options.outside_attention
    return {path: p for path, p in student.named_parameters() if path in multipliers}, multipliers
