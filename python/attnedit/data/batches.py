"""Which rows a step trains on, as a function of the step alone."""

from typing import Any, TypeAlias

import numpy as np

from attnedit.data.rows import Array, Rows, shuffled
from attnedit.data.stream import StreamedRows

# int32 [R, T], each row one document; the same with documents told apart; or rows that are tokenised when needed.
TrainingRows: TypeAlias = Array | Rows | StreamedRows


def row_length(rows: TrainingRows) -> int:
    return rows.sequence_length if isinstance(rows, StreamedRows) else int(_tokens(rows).shape[1])


def tokens_of(rows: TrainingRows, index: Any) -> Array:
    """int32 [..., T] of some rows, by their numbers or a slice."""
    if isinstance(rows, StreamedRows):
        return rows[index]
    chosen: Array = _tokens(rows)[index]
    return chosen


def starts_of(rows: TrainingRows, index: Any) -> Array | None:
    """The document_starts of the same rows, for ops.attention; None where a row is one document."""
    if isinstance(rows, StreamedRows):
        return rows.document_starts(index)
    return rows.starts[index] if isinstance(rows, Rows) and rows.starts is not None else None


def available(rows: TrainingRows, count: int) -> int:
    """How many different rows there are, but at most `count`."""
    return rows.available(count) if isinstance(rows, StreamedRows) else min(count, len(rows))


def draw(rows: TrainingRows, count: int, seed: int) -> Array:
    """The numbers of `count` different rows, or of all, rising."""
    count = available(rows, count)
    if isinstance(rows, StreamedRows):  # which come in a random order
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])


def _tokens(rows: Array | Rows) -> Array:
    return rows.tokens if isinstance(rows, Rows) else rows


class Batches:
    """Rows in a new order every epoch, cut into batches; a batch may lie across epochs.

    batch(step) depends on rows, rows_per_batch, seed and step only, so that a resumed run goes on where it stopped.
    Streamed rows have their order, and its seed, already.
    """

    def __init__(self, rows: TrainingRows, rows_per_batch: int, seed: int) -> None:
        self.rows = rows
        if available(rows, 1) == 0:
            raise ValueError("[batches] rows must have at least one row, got none")
        if rows_per_batch < 1:
            raise ValueError(f"[batches] rows_per_batch must be at least 1, got {rows_per_batch}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"[batches] seed must lie in 0 ... 2**64 - 1, got {seed}")
        self.rows_per_batch = rows_per_batch
        self.seed = seed
        self._order: tuple[int, Array] | None = None

    def batch(self, step: int) -> Array:
        """The rows of step 0, 1, ...: [rows_per_batch, T] of the rows' type."""
        return tokens_of(self.rows, self.numbers(step))

    def starts(self, step: int) -> Array | None:
        """Their document_starts."""
        return starts_of(self.rows, self.numbers(step))

    def numbers(self, step: int) -> Array:
        """Which rows they are."""
        if step < 0:
            raise ValueError(f"[batches] step must be at least 0, got {step}")
        position, end = step * self.rows_per_batch, (step + 1) * self.rows_per_batch
        if isinstance(self.rows, StreamedRows):
            return np.arange(position, end)
        picked: list[Array] = []
        while position < end:
            epoch, first = divmod(position, len(self.rows))
            part = self._permutation(epoch, len(self.rows))[first : first + end - position]
            picked.append(part)
            position += len(part)
        return np.concatenate(picked)

    def _permutation(self, epoch: int, rows: int) -> Array:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, shuffled(rows, self.seed, epoch)
        return self._order[1]


def require_rows(rows: TrainingRows, rows_per_batch: int) -> None:
    """Raises ValueError if a batch would hold a row twice: the corpus is too small."""
    got, length = available(rows, rows_per_batch), row_length(rows)
    if got < rows_per_batch:
        raise ValueError(
            f"[data] a batch of {rows_per_batch} rows of {length} needs {rows_per_batch * length} training tokens, "
            f"got {got * length}"
        )
