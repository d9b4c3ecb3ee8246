"""Which rows a step trains on, as a function of the step alone; and padded batches for evaluation."""

from collections.abc import Iterator, Sequence

import numpy as np

from attnedit.data.rows import Array, Rows


class Batches:
    """Rows in a new order every epoch, cut into batches; a batch may lie across epochs.

    batch(step) depends on rows, rows_per_batch, seed and step only, so that a resumed run goes on where it stopped.
    """

    def __init__(self, rows: Rows | Array, rows_per_batch: int, seed: int) -> None:
        self.rows = rows.tokens if isinstance(rows, Rows) else rows
        if len(self.rows) == 0:
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
        if step < 0:
            raise ValueError(f"[batches] step must be at least 0, got {step}")
        picked: list[Array] = []
        position, end = step * self.rows_per_batch, (step + 1) * self.rows_per_batch
        while position < end:
            epoch, first = divmod(position, len(self.rows))
            part = self._permutation(epoch)[first : first + end - position]
            picked.append(part)
            position += len(part)
        chosen: Array = self.rows[np.concatenate(picked)]
        return chosen

    def _permutation(self, epoch: int) -> Array:
        if self._order is None or self._order[0] != epoch:
            # Sorting raw bits: numpy promises the same ones in every version, of its own shuffles it does not.
            key = np.array([self.seed, epoch], np.uint64)
            bits = np.random.Philox(key=key).random_raw(len(self.rows))
            self._order = epoch, np.argsort(bits, kind="stable")
        return self._order[1]


def require_rows(rows: Rows | Array, rows_per_batch: int) -> None:
    """Raises ValueError if a batch would hold a row twice: the corpus is too small."""
    tokens = rows.tokens if isinstance(rows, Rows) else rows
    if len(tokens) < rows_per_batch:
        length = tokens.shape[1]
        raise ValueError(
            f"[data] a batch of {rows_per_batch} rows of {length} needs {rows_per_batch * length} training tokens, "
            f"got {tokens.size}"
        )


def pad_batches(rows: Sequence[Array], rows_per_batch: int) -> Iterator[tuple[Array, Array]]:
    """Neighbouring rows, in their order: (tokens int32 [B, T] padded with 0, lengths int32 [B]), T the longest here."""
    if rows_per_batch < 1:
        raise ValueError(f"[pad_batches] rows_per_batch must be at least 1, got {rows_per_batch}")
    for i in range(0, len(rows), rows_per_batch):
        part = rows[i : i + rows_per_batch]
        lengths = np.array([len(row) for row in part], np.int32)
        tokens = np.zeros((len(part), lengths.max()), np.int32)
        for padded, row in zip(tokens, part, strict=True):
            padded[: len(row)] = row
        yield tokens, lengths
