"""Phase 1: each edited layer learns alone, from the teacher's hidden state, the teacher's attention output.

    loss_l = sum |a_S - a_T|^2 / sum |a_T|^2,   a = attention output after o_proj, before the residual addition

One layer is in memory at a time: the teacher's weights pass by, its hidden states lie on disk (activations/). Layers
exchange nothing, so any subset in any order gives the same result.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from attnedit import ops, runtime
from attnedit.activations import StateDtype, States
from attnedit.autograd import no_grad, total
from attnedit.checkpoint import give_back, read_sealed, write_arrays, write_sealed
from attnedit.data import Batches, TrainingRows, draw, row_length, starts_of, tokens_of
from attnedit.distill.budget import (
    Auto,
    Rate,
    Share,
    Tokens,
    layerwise_rate,
    steps_for,
)
from attnedit.distill.loop import Losses, Metrics, NotFinite, Saved, descend, train
from attnedit.distill.optimizer import Method, Optimizer, trainable
from attnedit.distill.schedule import Schedule
from attnedit.models import Decoder
from attnedit.models.decoder import Attention, Block, edited_layers
from attnedit.models.load import map_parameters
from attnedit.tensor import Array, Tensor, full, tensor

PROBE_ROWS = 32  # the rows whose error is reported before and after
PERFECT = 1e-6  # a layer that starts here has nothing to learn
RESULT, ATTENTION = "result.json", "attention.safetensors"  # of a finished layer, in its folder


@dataclass(frozen=True)
class LayerwiseOptions:
    tokens: Tokens = 1_000_000  # per layer
    learning_rate: Rate | Auto = "auto"  # auto: 0.2 x RMS(o_proj), lower for longer runs and near layers
    batch_tokens: Tokens | Auto = "auto"  # auto: one row a step, up to 8,000 steps
    optimizer: Method = "adamw"  # soap goes further in the same tokens
    warmup: Share = 0.05
    final: Share = 0.05
    activations: StateDtype = "float32"  # bfloat16: half the disk

    def rows(self, sequence_length: int) -> int:
        """How many rows the tokens are, the last one whole."""
        return -(-self.tokens // sequence_length)


@dataclass(frozen=True)
class LayerResult:
    layer: int
    nmse_initial: float
    nmse_layerwise: float
    learning_rate: float | None  # the highest, where a layer had something to learn
    steps: int
    rows: int  # a step
    kept: bool  # False: training made it worse, so the start was put back


def layerwise(
    student: Decoder,
    teacher: Decoder,
    tokens: TrainingRows,
    options: LayerwiseOptions = LayerwiseOptions(),
    layers: Sequence[int] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    on_step: Callable[[int, int, int, float], None] | None = None,
) -> list[LayerResult]:
    """Trains the attention of the edited `layers` (default: all) in place.

    tokens: the training rows, int32 [R, T] or with documents told apart. folder: where state is kept, so that the same
    call continues after a kill.
    on_step(layer, step, steps, loss) follows the progress; steps is 0 for a layer that has nothing left to learn.
    """
    edited = edited_layers(student.config, teacher.config)
    chosen = edited if layers is None else sorted(layers)
    if not set(chosen) <= set(edited):
        raise ValueError(f"[layerwise] layers must be among the edited ones {edited}, got {chosen}")
    if not chosen:
        return []
    picked = draw(tokens, options.rows(row_length(tokens)), seed)
    scratch = None if folder is None else folder / "activations"
    kept = {layer: None if folder is None else folder / f"layer_{layer:03d}" for layer in chosen}
    results = {layer: found for layer in chosen if (found := _finished(student, layer, kept[layer])) is not None}
    waiting = [layer for layer in chosen if layer not in results]
    if on_step is not None:
        for layer, found in results.items():  # of an earlier call
            on_step(layer, 0, 0, found.nmse_layerwise)
    if waiting:
        runtime.empty_cache()  # what other steps needed
        starts = starts_of(tokens, picked)
        states = States(teacher, tokens_of(tokens, picked), scratch, options.activations, starts)
        for layer in waiting:
            states.advance(layer)
            states.attend()
            follow = None if on_step is None else (lambda s, n, v, i=layer: on_step(i, s, n, v["nmse"]))
            results[layer] = _train_layer(student, teacher, states, options, kept[layer], seed, follow)
            if on_step is not None and results[layer].steps == 0:
                on_step(layer, 0, 0, results[layer].nmse_layerwise)
        states.remove()
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)  # of a call that was killed behind its last layer
    return [results[layer] for layer in chosen]


def _finished(student: Decoder, layer: int, folder: Path | None) -> LayerResult | None:
    """The result of a layer that an earlier call has finished, its attention put into the student."""
    if folder is None or not ((folder / RESULT).exists() and (folder / ATTENTION).exists()):
        return None
    result = read_sealed(folder / RESULT)
    if result.keys() != {field.name for field in fields(LayerResult)}:
        raise ValueError(f"[layerwise] {folder / RESULT} is not a result of this version; remove {folder}")
    map_parameters(student.layers[layer].self_attn, folder / ATTENTION)
    return LayerResult(**result)


def _train_layer(
    student: Decoder,
    teacher: Decoder,
    states: States,
    options: LayerwiseOptions,
    folder: Path | None,
    seed: int,
    on_step: Callable[[int, int, dict[str, float]], None] | None,
) -> LayerResult:
    layer = states.layer
    block = student.layers[layer]
    initial = nmse(block, states)
    if not math.isfinite(initial):
        raise NotFinite(f"[layerwise] layer {layer}: nmse is {initial} before training: {_overflow(block, states)}")
    attention: Attention = block.self_attn
    start = dict(attention.named_parameters())
    for path, parameter in start.items():
        attention.set_parameter(path, trainable(parameter))
        give_back(parameter.numpy())
    optimizer = Optimizer(dict(attention.named_parameters()), options.optimizer)
    count, time, _ = states.shape
    plan = steps_for(options.tokens, time, options.batch_tokens)
    rate, kept = None, True
    if initial > PERFECT:
        rate = float(
            layerwise_rate(teacher, layer, plan.steps, initial)
            if options.learning_rate == "auto"
            else options.learning_rate
        )
        batches = Batches(np.arange(count)[:, None], plan.rows, seed + 1000 * (layer + 1))

        def losses_of(step: int) -> Losses:
            rows = batches.batch(step)[:, 0]
            sums: dict[str, Array] = {}
            for part in plan.passes:
                share = len(rows[part]) / len(rows)
                loss = attention_error(attention, *_batch(block, states, rows[part]), share).loss
                sums["nmse"] = total(sums.get("nmse"), descend({"nmse": loss})["nmse"].array)
            return {"nmse": Tensor(sums["nmse"])}

        schedule = Schedule(rate, plan.steps, options.warmup, options.final)
        saved = None if folder is None else Saved(folder)
        metrics = None if folder is None else Metrics(folder / "metrics.jsonl")
        try:
            train(f"layer {layer}", losses_of, optimizer, schedule, saved, metrics, on_step)
        except NotFinite:
            for path, parameter in start.items():
                attention.set_parameter(path, parameter)
            raise
        kept = nmse(block, states) <= initial
        if not kept:  # a layer never ends worse than it began
            for path, parameter in start.items():
                attention.set_parameter(path, trainable(parameter))
    for parameter in attention.parameters():
        parameter.requires_grad, parameter.grad = False, None
    steps = 0 if rate is None else plan.steps
    result = LayerResult(layer, initial, nmse(block, states), rate, steps, plan.rows, kept)
    if folder is not None:
        write_arrays(folder / ATTENTION, {path: parameter.numpy() for path, parameter in attention.named_parameters()})
        write_sealed(folder / RESULT, asdict(result))
        map_parameters(attention, folder / ATTENTION)
        Saved(folder).path.unlink(missing_ok=True)
    return result


def attention_error(
    attention: Attention, u: Tensor, a_teacher: Tensor, document_starts: Array | None, weight: float
) -> ops.SquaredError:
    """Of the attention's output for u, each [B, T, D]; the loss times weight."""
    a = attention(u, document_starts=document_starts)
    return ops.fused_mse(a, a_teacher, full((u.size // u.shape[-1],), weight))


def _batch(block: Block, states: States, rows: Array) -> tuple[Tensor, Tensor, Array | None]:
    """What the layer's attention sees and should give, and document_starts."""
    with no_grad():
        u = block.input_layernorm(tensor(states.hidden(rows)))
    return u, tensor(states.target(rows)), states.starts(rows)


def _overflow(block: Block, states: States) -> str:
    rows = np.arange(min(PROBE_ROWS, states.shape[0]))
    if not np.isfinite(states.hidden(rows)).all():
        return f"the teacher's hidden state before layers.{states.layer} holds NaN or Inf"
    if not np.isfinite(states.target(rows)).all():
        return f"the teacher's layers.{states.layer}.self_attn gives NaN or Inf"
    return f"the student's layers.{states.layer}.self_attn gives NaN or Inf, or more than float32 holds when squared"


def nmse(block: Block, states: States) -> float:
    """The layer's energy-normalised error on the probe rows, teacher-forced."""
    error = energy = 0.0
    rows = np.arange(min(PROBE_ROWS, states.shape[0]))
    per_pass = len(states.passes[0])
    with no_grad():
        for i in range(0, len(rows), per_pass):
            batch = _batch(block, states, rows[i : i + per_pass])
            part = attention_error(block.self_attn, *batch, 1.0).energy.numpy()
            error, energy = error + float(part[0]), energy + float(part[1])
    return error / max(energy, 1e-30)
