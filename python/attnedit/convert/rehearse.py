"""Both phases without weights: their own code tells what memory and which kernels they need, or how long these take.

timed: None, and kernels are switched off and two steps rehearsed; or a list, and one step is run for real, on drawn
numbers, its kernels put there with the seconds that they took (profile.spans).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from attnedit import ops, runtime
from attnedit.activations import forward, pass_rows, passes
from attnedit.autograd import no_grad
from attnedit.compute import compute
from attnedit.distill import LayerwiseOptions, ModelwiseOptions
from attnedit.distill.budget import Steps
from attnedit.distill.layerwise import attention_error
from attnedit.distill.loop import descend
from attnedit.distill.modelwise import pass_losses, trained_paths
from attnedit.distill.moments import LONGEST_SIDE, kept_numbers, rotates
from attnedit.distill.optimizer import Method, Optimizer
from attnedit.evaluate.compare import measured
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import MLAConfig, Module
from attnedit.profile import spans
from attnedit.tensor import Array, Tensor, empty, full

Spans: TypeAlias = list[dict[str, Any]]
Kernels: TypeAlias = list[tuple[str, float, float]]  # name, floating-point operations, bytes moved


@dataclass(frozen=True)
class Rehearsed:
    """memory: bytes of the pool at its peak, and of what optimizers hold outside."""

    memory: int
    step: Kernels  # one optimizer step, every pass of it
    teacher: Kernels = field(default_factory=list)  # the teacher's turn for a pass of rows
    probe: Kernels = field(default_factory=list)  # the student's error on them


class Blank:
    """Frozen weights: all are views of one block of memory, which nobody touches unless its numbers are drawn."""

    def __init__(self, *models: Decoder, itemsize: int, drawn: bool = False) -> None:
        most = max(parameter.size for model in models for parameter in model.parameters())
        self._dtype = np.dtype(np.float32 if itemsize == 4 else ml_dtypes.bfloat16)
        self._block = np.zeros(most * 4, np.uint8)  # untouched pages take no memory
        if drawn:  # so that tokens go to different experts
            numbers = self._block.view(self._dtype)[:most]
            some = np.random.default_rng(0).normal(0, 0.02, min(most, 1_000_003)).astype(self._dtype)
            for i in range(0, most, some.size):
                numbers[i : i + some.size] = some[: most - i]

    def fill(self, module: Module) -> None:
        for path, parameter in list(module.named_parameters()):
            dtype = np.dtype(np.float32) if len(parameter.shape) == 1 else self._dtype
            module.set_parameter(path, Tensor(np.ndarray(parameter.shape, dtype, self._block)))


def _tokens(rows: int, time: int, config: DecoderConfig) -> Array:
    return np.arange(rows * time, dtype=np.int32).reshape(rows, time) % config.vocab_size


@contextmanager
def _running(timed: Spans | None) -> Iterator[runtime.Rehearsal]:
    if timed is None:
        with runtime.rehearsal() as made:
            yield made
    else:
        with spans(timed):
            yield runtime.Rehearsal()


def rehearse_layerwise(
    source: DecoderConfig, target: DecoderConfig, layer: int, steps: Steps, options: LayerwiseOptions, dtype: str,
    itemsize: int, timed: Spans | None = None,
) -> Rehearsed:  # fmt: skip
    """A layer of phase 1: the teacher's turn for one pass of rows, then steps."""
    teacher, student = Decoder(source), Decoder(target)
    blank = Blank(teacher, student, itemsize=itemsize, drawn=timed is not None)
    blank.fill(teacher)
    blank.fill(student)
    time, hidden = steps.sequence_length, source.hidden_size
    block, attention = teacher.layers[layer], student.layers[layer].self_attn
    shape = (min(options.rows(time), pass_rows(time)), time, hidden)
    marks: list[int] = []

    def teachers_turn() -> None:
        with no_grad():
            h = teacher.embed_tokens(_tokens(*shape[:2], source))
            block.after_attention(h, block.attention(h))

    def probe() -> None:
        with no_grad():
            attention_error(attention, block.input_layernorm(empty(shape)), empty(shape), None, 1.0)

    with compute(dtype), _running(timed) as made:
        teachers_turn()
        marks.append(runtime.rehearsed())
        probe()
        marks.append(runtime.rehearsed())
        optimizer = _optimizer(attention, options.optimizer)
        for _ in range(2 if timed is None else 1):
            marks.append(runtime.rehearsed())
            for part in steps.passes:
                part_shape = (part.stop - part.start, time, hidden)
                with no_grad():
                    u = block.input_layernorm(empty(part_shape))
                descend({"nmse": attention_error(attention, u, empty(part_shape), None, 1.0).loss})
            optimizer()
        marks.append(runtime.rehearsed())
        probe()
        del optimizer
        teachers_turn()  # of the next layer
    extra = _outside(dict(attention.named_parameters()), options.optimizer)
    return Rehearsed(
        made.reserved_peak + extra,
        made.tasks[marks[-2] : marks[-1]],
        made.tasks[: marks[0]],
        made.tasks[marks[0] : marks[1]],
    )


def rehearse_modelwise(
    source: DecoderConfig, target: DecoderConfig, edited: list[int], steps: Steps, options: ModelwiseOptions,
    dtype: str, itemsize: int, timed: Spans | None = None,
) -> Rehearsed:  # fmt: skip
    """Phase 2: steps."""
    teacher, student = Decoder(source), Decoder(target)
    blank = Blank(teacher, student, itemsize=itemsize, drawn=timed is not None)
    blank.fill(teacher)
    blank.fill(student)
    chosen = trained_paths(student, edited, options)
    time = steps.sequence_length
    marks: list[int] = []
    with compute(dtype), _running(timed) as made:
        optimizer = _optimizer(student, options.optimizer, chosen, options.clip)

        for _ in range(2 if timed is None else 1):
            marks.append(runtime.rehearsed())
            for part in steps.passes:
                tokens = _tokens(part.stop - part.start, time, source)
                known = partial(empty, (*tokens.shape, source.hidden_size)) if options.teacher == "cached" else None
                descend(pass_losses(student, teacher, tokens, None, options, steps.rows * time, known))
            optimizer()
    extra = _outside({path: p for path, p in student.named_parameters() if path in chosen}, options.optimizer)
    return Rehearsed(made.reserved_peak + extra, made.tasks[marks[-1] :])


def rehearse_comparison(source: DecoderConfig, target: DecoderConfig, time: int, dtype: str, itemsize: int) -> Kernels:
    """Teacher and student side by side on one row."""
    models = Decoder(source), Decoder(target)
    blank = Blank(*models, itemsize=itemsize)
    for model in models:
        blank.fill(model)
    teacher, student = models
    row = np.zeros((1, time), np.int32)
    with compute(dtype), runtime.rehearsal() as made, no_grad():
        ops.fused_kl(student(row), student.head, teacher(row), teacher.head, full((time,), 1.0))
    return made.tasks


def rehearse_evaluation(
    source: DecoderConfig, target: DecoderConfig, time: int, itemsize: int, timed: Spans | None = None
) -> Kernels:
    """Teacher and student on one held-out row, as `evaluate` has them: always in float32."""
    models = Decoder(source), Decoder(target)
    blank = Blank(*models, itemsize=itemsize, drawn=timed is not None)
    for model in models:
        blank.fill(model)
    tokens = _tokens(1, time, source)
    with compute("float32"), _running(timed) as made:
        (theirs,), (ours,) = forward(models, [tokens])
        measured(models, theirs, ours, tokens, [0.0, 0.0])
    return made.tasks


def rehearse_edit(source: DecoderConfig, target: DecoderConfig, tokens: int, length: int, itemsize: int) -> int:
    """The pool's bytes while the edit looks at `tokens` of the teacher's; at candidates of the student's, if it must
    choose which layers stay full."""
    teacher, student = Decoder(source), Decoder(target)
    blank = Blank(teacher, student, itemsize=itemsize)
    blank.fill(teacher)
    blank.fill(student)
    chooses = not any(isinstance(layer, MLAConfig) for layer in target.attention)
    time = max(1, min(length, tokens))
    batches = passes(np.zeros((max(1, tokens // time), time), np.int32))
    with runtime.rehearsal() as made, no_grad():
        expected = [teacher.embed_tokens(batch) for batch in batches]
        for model in (teacher, student) if chooses else (teacher,):
            hidden = [model.embed_tokens(batch) for batch in batches] if chooses else expected
            block = model.layers[0]
            normed = [block.input_layernorm(h) for h in hidden] if not chooses else []
            for b, h in enumerate(hidden):
                hidden[b] = block(h) if chooses else block.after_attention(h, block.self_attn(normed[b]))
        if chooses:
            ops.fused_kl(hidden[0], student.head, expected[0], teacher.head, full((batches[0].size,), 1.0))
    return made.reserved_peak


def _optimizer(
    module: Module, method: Method, chosen: set[str] | None = None, clip: float | None = None
) -> Callable[[], None]:
    """The module's (chosen) parameters as trainable ones, with all that AdamW keeps; what comes back takes a step."""
    for path, parameter in list(module.named_parameters()):
        if chosen is None or path in chosen:
            module.set_parameter(path, full(parameter.shape, 0))
    trained = {path: p for path, p in module.named_parameters() if chosen is None or path in chosen}
    for parameter in trained.values():
        parameter.requires_grad = True
    # SOAP's matrices are numpy's: counted by `_outside`, where nothing is computed.
    by_adam = {path: p for path, p in trained.items() if method == "adamw" or not rotates(p.shape)}
    optimizer = Optimizer(by_adam, "adamw", clip=clip)
    return lambda: optimizer.step(1.0)


def _outside(trained: dict[str, Tensor], method: Method) -> int:
    """Bytes of SOAP's matrices: two moments, statistics and basis of sides that rotate; and a step's own copies."""
    if method == "adamw":
        return 0
    matrices = [p.shape for p in trained.values() if rotates(p.shape)]
    kept = sum(kept_numbers(shape, soap=True) for shape in matrices)
    # Of the matrix whose turn it is: copies in and out of its bases, or LAPACK's of a side.
    turns = [max(8 * m * n, m * n + 5 * max(s for s in (m, n) if s <= LONGEST_SIDE) ** 2) for m, n in matrices]
    return 4 * (kept + max(turns, default=0))
