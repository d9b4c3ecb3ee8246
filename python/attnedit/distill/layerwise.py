"""Phase 1: each edited layer learns alone, from the teacher's hidden state, the teacher's attention output.

    loss_l = sum |a_S - a_T|^2 / sum |a_T|^2,   a = attention output after o_proj, before the residual addition

One layer is in memory at a time. The teacher's activations lie in two files: the hidden state that enters the layer and
the attention output that it should give. Layers exchange nothing, so any subset in any order gives the same result.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from attnedit import ops
from attnedit.autograd import no_grad, total
from attnedit.checkpoint import atomic_write
from attnedit.data import Batches
from attnedit.distill.budget import (
    MICRO_BATCH_TOKENS,
    Auto,
    Rate,
    Share,
    Tokens,
    edited_layers,
    layerwise_rate,
    steps_for,
)
from attnedit.distill.loop import Losses, Metrics, Saved, descend, train
from attnedit.distill.optimizer import Method, Optimizer, trainable
from attnedit.distill.schedule import Schedule
from attnedit.models import Decoder
from attnedit.models.decoder import Attention, Block
from attnedit.tensor import Array, Tensor, full, tensor

PROBE_ROWS = 32  # the rows whose error is reported before and after
PERFECT = 1e-6  # a layer that starts here has nothing to learn


@dataclass(frozen=True)
class LayerwiseOptions:
    tokens: Tokens = 1_000_000  # per layer
    learning_rate: Rate | Auto = "auto"  # auto: 0.2 x RMS(o_proj), lower for longer runs and for GateSWA
    batch_tokens: Tokens | Auto = "auto"  # auto: one row a step, up to 8,000 steps
    optimizer: Method = "adamw"  # soap goes further in the same tokens
    warmup: Share = 0.05
    final: Share = 0.05


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
    tokens: Array,
    options: LayerwiseOptions = LayerwiseOptions(),
    layers: Sequence[int] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    on_step: Callable[[int, int, int, float], None] | None = None,
) -> list[LayerResult]:
    """Trains the attention of the edited `layers` (default: all) in place.

    tokens: int32 [R, T], the training rows. folder: where state is kept, so that the same call continues after a kill.
    on_step(layer, step, steps, loss) follows the progress.
    """
    edited = edited_layers(student, teacher)
    chosen = edited if layers is None else sorted(layers)
    if not set(chosen) <= set(edited):
        raise ValueError(f"[layerwise] layers must be among the edited ones {edited}, got {chosen}")
    if not chosen:
        return []
    rows_needed = min(len(tokens), -(-options.tokens // tokens.shape[1]))
    picked = np.sort(np.random.default_rng((seed, 1)).permutation(len(tokens))[:rows_needed])
    for left_by_a_kill in [] if folder is None else folder.glob("activations-*"):
        shutil.rmtree(left_by_a_kill)
    with tempfile.TemporaryDirectory(dir=folder, prefix="activations-") as scratch:
        activations = Activations(teacher, tokens[picked], Path(scratch))
        results = []
        for layer in range(max(chosen) + 1):
            activations.attend(layer)
            if layer in chosen:
                kept = None if folder is None else folder / f"layer_{layer:03d}"
                follow = None if on_step is None else (lambda s, n, v, i=layer: on_step(i, s, n, v["nmse"]))
                results.append(_train_layer(student, teacher, layer, activations, options, kept, seed, follow))
            if layer < max(chosen):
                activations.advance(layer)
        return results


class Activations:
    """The teacher's hidden state before one layer, and its attention output there, for all rows: two mapped files."""

    def __init__(self, teacher: Decoder, tokens: Array, folder: Path) -> None:
        self.teacher = teacher
        shape = (*tokens.shape, teacher.config.hidden_size)
        self.hidden = _mapped(folder / "hidden.f32", shape)
        self.target = _mapped(folder / "target.f32", shape)
        per_pass = max(1, MICRO_BATCH_TOKENS // shape[1])
        self.passes = [slice(i, i + per_pass) for i in range(0, shape[0], per_pass)]
        with no_grad():
            for rows in self.passes:
                self.hidden[rows] = teacher.embed_tokens(np.ascontiguousarray(tokens[rows])).numpy()

    def attend(self, layer: int) -> None:
        """Fills `target` with the layer's attention output."""
        block = self.teacher.layers[layer]
        with no_grad():
            for rows in self.passes:
                self.target[rows] = block.self_attn(block.input_layernorm(tensor(self.hidden[rows]))).numpy()

    def advance(self, layer: int) -> None:
        """Moves `hidden` behind the layer."""
        block = self.teacher.layers[layer]
        with no_grad():
            for rows in self.passes:
                h = block.after_attention(tensor(self.hidden[rows]), tensor(self.target[rows]))
                self.hidden[rows] = h.numpy()


def _mapped(path: Path, shape: tuple[int, ...]) -> Array:
    """A float32 file in memory. Its blocks are taken at once: a disk that is too small says so here, as an OSError."""
    size = math.prod(shape) * 4
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:  # it does not know the file's name
            raise OSError(error.errno, f"{error.strerror} for {size:,} bytes of activations", str(path)) from None
    return np.memmap(path, mode="r+", dtype=np.float32, shape=shape)


def _train_layer(
    student: Decoder,
    teacher: Decoder,
    layer: int,
    activations: Activations,
    options: LayerwiseOptions,
    folder: Path | None,
    seed: int,
    on_step: Callable[[int, int, dict[str, float]], None] | None,
) -> LayerResult:
    block = student.layers[layer]
    result_path = None if folder is None else folder / "result.json"
    initial = nmse(block, activations)
    attention: Attention = block.self_attn
    for path, parameter in list(attention.named_parameters()):
        attention.set_parameter(path, trainable(parameter))
    optimizer = Optimizer(dict(attention.named_parameters()), options.optimizer)
    count, time, _ = activations.hidden.shape
    plan = steps_for(options.tokens, time, options.batch_tokens)
    rate, kept = None, True
    if initial > PERFECT:
        rate = float(
            layerwise_rate(student, teacher, layer, plan.steps)
            if options.learning_rate == "auto"
            else options.learning_rate
        )
        batches = Batches(np.arange(count)[:, None], plan.rows, seed + 1000 * (layer + 1))

        def losses_of(step: int) -> Losses:
            rows = batches.batch(step)[:, 0]
            loss: Array | None = None
            for part in plan.passes:
                share = len(rows[part]) / len(rows)
                u, a_teacher = _batch(block, activations, rows[part])
                error = ops.fused_mse(attention(u), a_teacher, full((u.size // u.shape[-1],), share))
                loss = total(loss, descend({"nmse": error.loss})["nmse"].array)
            assert loss is not None
            return {"nmse": Tensor(loss)}

        schedule = Schedule(rate, plan.steps, options.warmup, options.final)
        saved = None if folder is None else Saved(folder)
        metrics = None if folder is None else Metrics(folder / "metrics.jsonl")
        start = {path: parameter.numpy().copy() for path, parameter in attention.named_parameters()}
        train(f"layer {layer}", losses_of, optimizer, schedule, saved, metrics, on_step)
        kept = nmse(block, activations) <= initial
        if not kept:  # a layer never ends worse than it began
            for path, values in start.items():
                attention.set_parameter(path, tensor(values))
    for parameter in attention.parameters():
        parameter.requires_grad, parameter.grad = False, None
    steps = 0 if rate is None else plan.steps
    result = LayerResult(layer, initial, nmse(block, activations), rate, steps, plan.rows, kept)
    if result_path is not None:
        result_path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(result_path, json.dumps(asdict(result)))
    return result


def _batch(block: Block, activations: Activations, rows: Array) -> tuple[Tensor, Tensor]:
    """What the layer's attention sees and should give."""
    with no_grad():
        u = block.input_layernorm(tensor(activations.hidden[rows]))
    return u, tensor(activations.target[rows])


def nmse(block: Block, activations: Activations) -> float:
    """The layer's energy-normalised error on the probe rows, teacher-forced."""
    error = energy = 0.0
    rows = np.arange(min(PROBE_ROWS, len(activations.hidden)))
    per_pass = activations.passes[0].stop
    with no_grad():
        for i in range(0, len(rows), per_pass):
            u, a_teacher = _batch(block, activations, rows[i : i + per_pass])
            part = ops.fused_mse(block.self_attn(u), a_teacher, full((u.size // u.shape[-1],), 1.0)).energy.numpy()
            error, energy = error + float(part[0]), energy + float(part[1])
    return error / max(energy, 1e-30)
