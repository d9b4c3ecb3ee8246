"""Documents' tokens -> rows: packed end to end for training, a document a row for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Packed rows, each full, in memory."""

    tokens: Array  # int32 [R, sequence_length]
    starts: Array | None = None  # int32 like tokens: where in the row each token's document begins; None: it is one

    def __len__(self) -> int:
        return len(self.tokens)


def pack(documents: Sequence[Array], sequence_length: int, separator: int | None = None) -> Rows:
    """All documents end to end, cut into rows; what does not fill the last row is dropped.

    separator: the token between two documents, where they do not begin with one (Tokenizer.document_separator). It
    ends the first of them. Raises ValueError if not even one row is filled.
    """
    if sequence_length < 1:
        raise ValueError(f"[pack] sequence_length must be at least 1, got {sequence_length}")
    stream, begins = joined(documents, separator)
    count = len(stream) // sequence_length
    if count == 0:
        raise ValueError(
            f"[pack] one row of sequence_length {sequence_length} needs {sequence_length} tokens, got {len(stream)}"
        )
    starts = np.stack([starts_within(begins, i * sequence_length, sequence_length) for i in range(count)])
    return Rows(stream[: count * sequence_length].reshape(count, sequence_length), starts)


def joined(documents: Sequence[Array], separator: int | None) -> tuple[Array, Array]:
    """Documents end to end with the separator between them: tokens int32 [N], and where each begins, int64 [D]."""
    pieces: list[Array] = []
    begins = np.zeros(len(documents), np.int64)
    at = 0
    for i, document in enumerate(documents):
        if i > 0 and separator is not None:
            pieces.append(np.array([separator], np.int32))
            at += 1
        begins[i] = at
        pieces.append(document)
        at += len(document)
    tokens = np.concatenate(pieces, dtype=np.int32, casting="same_kind") if pieces else np.zeros(0, np.int32)
    return tokens, begins


def shuffled(count: int, seed: int, epoch: int = 0, part: int = 0) -> Array:
    """0 ... count - 1 in an order of these numbers' own, int64.

    Sorting raw bits: numpy promises the same ones in every version, of its own shuffles it does not.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, 0, part])
    return np.argsort(bits.random_raw(count), kind="stable")


def starts_within(begins: Array, first: int, length: int) -> Array:
    """For each of `length` tokens from number `first` on: where its document begins, from there; 0 if it is earlier."""
    inside = begins[np.searchsorted(begins, first) : np.searchsorted(begins, first + length)] - first
    starts = np.zeros(length, np.int32)
    starts[inside] = inside
    return np.maximum.accumulate(starts)


def heldout_rows(documents: Sequence[Array], sequence_length: int) -> list[Array]:
    """A document a row, int32, cut at sequence_length; those without a token to predict are dropped."""
    if sequence_length < 2:
        raise ValueError(f"[heldout_rows] sequence_length must be at least 2, got {sequence_length}")
    return [np.asarray(document[:sequence_length], np.int32) for document in documents if len(document) >= 2]
