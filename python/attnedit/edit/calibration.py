"""The text that an edit looks at the teacher with."""

from collections.abc import Sequence

import numpy as np

from attnedit.activations import passes
from attnedit.data import TrainingRows, available, row_length, starts_of, tokens_of
from attnedit.tensor import Array


def calibration_rows(calibration: TrainingRows | None, what: str, tokens: int) -> tuple[Array, Array | None]:
    """The first rows and their document_starts."""
    if calibration is None:
        raise ValueError(f"[edit] calibration must be rows of tokens for {what}, got none")
    if isinstance(calibration, np.ndarray) and (calibration.ndim != 2 or calibration.size == 0):
        raise ValueError(f"[edit] calibration must have shape (rows, tokens), none of them 0, got {calibration.shape}")
    first = slice(0, available(calibration, max(1, tokens // row_length(calibration))))
    return np.ascontiguousarray(tokens_of(calibration, first), dtype=np.int32), starts_of(calibration, first)


def begins(starts: Array | None, batches: Sequence[object]) -> Sequence[Array | None]:
    """The document_starts of each pass."""
    return [None] * len(batches) if starts is None else passes(starts)
