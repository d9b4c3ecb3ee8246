"""Teacher and student on the same tokens: losses, divergence, agreement, by position."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from attnedit import notebook, ops, runtime
from attnedit.activations import forward, grouped
from attnedit.autograd import no_grad
from attnedit.evaluate.plots import by_position
from attnedit.models import Decoder
from attnedit.models.decoder import overflow
from attnedit.models.pages import give_back_all
from attnedit.tensor import Array, Tensor, full

OnTokens = Callable[[int, int], None]  # (tokens computed, of how many)

BATCH_TOKENS = 4096
MOST_CURVE_POINTS = 32


@dataclass(frozen=True)
class Stretch:
    """Means over the predictions at positions first .. last."""

    first: int
    last: int
    tokens: int
    teacher_nll: float
    student_nll: float
    kl: float
    top1_agreement: float


@dataclass(frozen=True)
class Comparison:
    """Means over all predicted tokens of the held-out rows; curves are means by position, early to late."""

    tokens: int
    teacher_nll: float  # nats per token
    student_nll: float
    kl: float  # KL(teacher || student), nats per token
    top1_agreement: float
    early: Stretch  # the first quarter of the positions: short contexts
    late: Stretch  # the last quarter
    positions: list[int]  # the first position of each point of the curves
    teacher_nll_by_position: list[float]
    student_nll_by_position: list[float]
    kl_by_position: list[float]
    teacher_tokens_per_second: float  # forward passes, this machine
    student_tokens_per_second: float

    def _repr_html_(self) -> str:
        from matplotlib.figure import Figure

        rows = [
            ("NLL, nats/token", f"{self.teacher_nll:.4f}", f"{self.student_nll:.4f}"),
            ("KL to the teacher, nats/token", "", f"{self.kl:.4f}"),
            ("top-1 agreement", "", f"{self.top1_agreement:.3f}"),
            ("forward, tokens/s", f"{self.teacher_tokens_per_second:,.0f}", f"{self.student_tokens_per_second:,.0f}"),
        ]
        for part in (self.early, self.late):
            where = f"NLL at positions {part.first} to {part.last}"
            rows.append((where, f"{part.teacher_nll:.4f}", f"{part.student_nll:.4f}"))
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        by_position(left, right, asdict(self))
        title = f"{self.tokens:,} held-out predictions"
        return notebook.table(title, rows, ("", "teacher", "student")) + notebook.picture(figure, "losses by position")


def batches(rows: list[Array]) -> Iterator[tuple[slice, int]]:
    """Which neighbouring rows are padded to one length, and how many tokens they are then."""
    i = 0
    while i < len(rows):
        longest, j = 0, i
        while j < len(rows) and max(longest, len(rows[j])) * (j + 1 - i) <= max(BATCH_TOKENS, len(rows[i])):
            longest, j = max(longest, len(rows[j])), j + 1
        yield slice(i, j), longest * (j - i)
        i = j


def padded(rows: list[Array]) -> tuple[Array, Array]:
    """Rows padded with 0 to one length: (tokens [B, T], labels [B, T] with -1 where nothing follows)."""
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest), np.int32)
    labels = np.full((len(rows), longest), -1, np.int32)
    for b, row in enumerate(rows):
        tokens[b, : len(row)] = row
        labels[b, : len(row) - 1] = row[1:]
    return tokens, labels


def evaluate(
    student: Decoder, teacher: Decoder, heldout: list[Array], on_tokens: OnTokens = lambda done, of: None
) -> Comparison:
    """heldout: int32 rows, a document each, at least two tokens long; on_tokens follows it, padding counted."""
    if student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(
            f"[evaluate] student and teacher must share a vocabulary, got {student.config.vocab_size} "
            f"and {teacher.config.vocab_size}"
        )
    rows = [row for row in heldout if len(row) >= 2]
    if not rows:
        raise ValueError("[evaluate] heldout must have a row of at least 2 tokens, got none")
    runtime.empty_cache()  # what other steps needed
    longest = max(len(row) for row in rows) - 1
    sums = np.zeros((5, longest))  # by position: count, teacher nll, student nll, kl, agreement
    seconds = [0.0, 0.0]  # teacher, student
    models = (teacher, student)
    spans, sizes = zip(*batches(rows), strict=True)
    seen = sum(sizes)
    for part in grouped(sizes, models):
        pairs = [padded(rows[span]) for span in spans[part]]
        before, now = sum(sizes[: part.start]), sum(sizes[part])

        def on_layer(done: int, of: int, before: int = before, now: int = now) -> None:
            on_tokens(before + now * done // of, seen)

        hidden = forward(models, [tokens for tokens, _ in pairs], seconds, on_layer=on_layer)
        for theirs, ours, (_, labels) in zip(*hidden, pairs, strict=True):
            for total, value in zip(sums, measured(models, theirs, ours, labels, seconds), strict=True):
                by_position = np.where(labels >= 0, value.reshape(labels.shape), 0).sum(0, dtype=np.float64)
                total[: min(longest, len(by_position))] += by_position[:longest]
        give_back_all(*(room for model in models for room in (model.embed_tokens, model.lm_head)))
    whole, quarter = _stretch(sums, 0, longest), max(1, longest // 4)
    if not np.isfinite([whole.teacher_nll, whole.student_nll, whole.kl]).all():
        where = overflow(rows[:MOST_CURVE_POINTS], teacher=teacher, student=student)
        raise FloatingPointError(f"[evaluate] the losses must be finite: {where}")
    curves, positions = _curves(sums)
    return Comparison(
        tokens=whole.tokens,
        teacher_nll=whole.teacher_nll,
        student_nll=whole.student_nll,
        kl=whole.kl,
        top1_agreement=whole.top1_agreement,
        early=_stretch(sums, 0, quarter),
        late=_stretch(sums, longest - quarter, longest),
        positions=positions,
        teacher_nll_by_position=curves[0],
        student_nll_by_position=curves[1],
        kl_by_position=curves[2],
        teacher_tokens_per_second=seen / seconds[0],
        student_tokens_per_second=seen / seconds[1],
    )


def measured(
    models: tuple[Decoder, Decoder], theirs: Tensor, ours: Tensor, labels: Array, seconds: list[float]
) -> tuple[Array, ...]:
    """For every token: 1, the teacher's and the student's nll, KL, agreement. seconds gathers each one's time."""
    teacher, student = models
    flat, ones, predicted = labels.reshape(-1), full((labels.size,), 1.0), []
    with no_grad():
        for m, (model, hidden) in enumerate(zip(models, (theirs, ours), strict=True)):
            runtime.synchronize()
            begun = time.perf_counter()
            predicted.append(ops.cross_entropy(hidden, model.head, flat, ones))
            runtime.synchronize()
            seconds[m] += time.perf_counter() - begun
        each = ops.fused_kl(ours, student.head, theirs, teacher.head, ones).each
    agree = predicted[0].argmax.numpy() == predicted[1].argmax.numpy()
    return np.ones(labels.size), predicted[0].nll.numpy(), predicted[1].nll.numpy(), each.numpy(), agree


def _stretch(sums: Array, begin: int, end: int) -> Stretch:
    count, *rest = map(float, sums[:, begin:end].sum(1))
    return Stretch(begin, end - 1, int(count), *(value / count for value in rest))


def _curves(sums: Array) -> tuple[list[list[float]], list[int]]:
    """Means by position, in at most MOST_CURVE_POINTS groups of neighbouring positions."""
    length = sums.shape[1]
    edges = np.unique(np.linspace(0, length, min(length, MOST_CURVE_POINTS) + 1).astype(int))[:-1]
    grouped = np.add.reduceat(sums, edges, axis=1)
    return [list(map(float, grouped[k] / np.maximum(grouped[0], 1))) for k in (1, 2, 3)], [int(e) for e in edges]
