"""Documents' tokens -> rows: packed end to end for training, a document a row for evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Packed rows, each full."""

    tokens: Array  # int32 [R, sequence_length]


def pack(documents: Sequence[Array], sequence_length: int, separator: int | None = None) -> Rows:
    """All documents end to end, cut into rows; what does not fill the last row is dropped.

    separator: the token between two documents, where they do not begin with one (Tokenizer.document_separator).
    Raises ValueError if not even one row is filled.
    """
    if sequence_length < 1:
        raise ValueError(f"[pack] sequence_length must be at least 1, got {sequence_length}")
    pieces: list[Array] = []
    for i, document in enumerate(documents):
        if i > 0 and separator is not None:
            pieces.append(np.array([separator], np.int32))
        pieces.append(document)
    got = sum(len(piece) for piece in pieces)
    if got < sequence_length:
        raise ValueError(
            f"[pack] one row of sequence_length {sequence_length} needs {sequence_length} tokens, got {got}"
        )
    stream = np.concatenate(pieces, dtype=np.int32, casting="same_kind")
    count = got // sequence_length
    return Rows(stream[: count * sequence_length].reshape(count, sequence_length))


def heldout_rows(documents: Sequence[Array], sequence_length: int) -> list[Array]:
    """A document a row, int32, cut at sequence_length; those without a token to predict are dropped."""
    if sequence_length < 2:
        raise ValueError(f"[heldout_rows] sequence_length must be at least 2, got {sequence_length}")
    return [np.asarray(document[:sequence_length], np.int32) for document in documents if len(document) >= 2]
