"""Packing keeps every token in its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnedit.data import heldout_rows, pack

DOCUMENTS = st.lists(
    st.lists(st.integers(0, 2**31 - 1), max_size=9).map(lambda ids: np.array(ids, np.int32)), max_size=9
)


@given(DOCUMENTS, st.integers(1, 12), st.none() | st.just(7))
def test_packing_preserves_tokens_in_order(documents: list[np.ndarray], length: int, separator: int | None) -> None:
    expected: list[int] = []
    for i, document in enumerate(documents):
        expected += [separator] if i and separator is not None else []
        expected += document.tolist()
    if len(expected) < length:
        with pytest.raises(ValueError, match=f"needs {length} tokens, got {len(expected)}"):
            pack(documents, length, separator)
        return
    tokens = pack(documents, length, separator).tokens
    assert tokens.dtype == np.int32 and tokens.shape == (len(expected) // length, length)
    assert tokens.reshape(-1).tolist() == expected[: tokens.size]


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
        pack([np.zeros(3, np.int32)], 0)


@given(DOCUMENTS, st.integers(2, 6))
def test_held_out_rows_are_documents_cut(documents: list[np.ndarray], length: int) -> None:
    rows = heldout_rows(documents, length)
    assert [row.tolist() for row in rows] == [d.tolist()[:length] for d in documents if len(d) >= 2]
    assert all(row.dtype == np.int32 for row in rows)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        heldout_rows(documents, 1)


@given(DOCUMENTS, st.integers(1, 12), st.none() | st.just(7))
def test_every_token_knows_where_its_document_begins(
    documents: list[np.ndarray], length: int, separator: int | None
) -> None:
    which: list[int] = []
    for i, document in enumerate(documents):
        which += [i - 1] if i and separator is not None else []  # a separator ends the document before it
        which += [i] * len(document)
    if len(which) < length:
        return
    starts = pack(documents, length, separator).starts
    assert starts is not None and starts.dtype == np.int32
    for row, begins in enumerate(starts):
        own = which[row * length : (row + 1) * length]
        assert [own[begin] for begin in begins] == own  # within the document
        assert all(begin == 0 or own[begin - 1] != own[begin] for begin in begins)  # and at its first token
