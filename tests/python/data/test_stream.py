"""Streamed rows are a function of their number: however they are asked for, and whoever made the shards."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnedit.data import Batches, Shard, StreamedRows, draw, require_rows, starts_of, tokens_of
from attnedit.data.stream import shares

LENGTH = 4


def maker(source: int, rows: list[int], calls: list[int] | None = None) -> Callable[[int], Shard | None]:
    """Shards of so many rows; a token is its source, its shard and its row. A remainder fills no row."""

    def make(number: int) -> Shard | None:
        if calls is not None:
            calls.append(number)
        if number >= len(rows):
            return None
        tokens = np.repeat(source * 10_000 + number * 100 + np.arange(rows[number]), LENGTH).astype(np.uint16)
        return Shard(np.append(tokens, [7, 7]).astype(np.uint16), np.arange(0, len(tokens), 3))

    return make


def streamed(*sources: tuple[list[int], float], seed: int = 0) -> StreamedRows:
    return StreamedRows([(maker(i, rows), weight) for i, (rows, weight) in enumerate(sources)], LENGTH, seed)


SHARDS = st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(sum)


@given(SHARDS, st.integers(0, 2**40), st.lists(st.integers(0, 60), max_size=20))
def test_an_epoch_is_every_row_once_shard_after_shard(rows: list[int], seed: int, asked: list[int]) -> None:
    straight, total = streamed((rows, 1.0), seed=seed), sum(rows)
    seen = straight[: 3 * total]
    assert (seen == seen[:, :1]).all() and seen.dtype == np.int32
    every = [100 * shard + row for shard, count in enumerate(rows) for row in range(count)]
    for epoch in range(3):
        order = seen[epoch * total : (epoch + 1) * total, 0].tolist()
        assert sorted(order) == every and [x // 100 for x in order] == [x // 100 for x in every]
    fresh = streamed((rows, 1.0), seed=seed)  # a continued run asks for later rows first
    for number in asked:
        assert np.array_equal(fresh[number], straight[number])
        assert np.array_equal(fresh.document_starts(number), straight.document_starts(number))
    assert straight.available(1000) == total == fresh.available(1000) and fresh.available(1) == 1
    straight.close()
    fresh.close()


def test_documents_begin_where_the_shard_says() -> None:
    rows = streamed(([6], 1.0))
    for tokens, starts in zip(rows[:6], rows.document_starts(slice(0, 6)), strict=True):
        first = int(tokens[0]) * LENGTH  # documents of three tokens
        assert starts.tolist() == [max(0, (first + t) // 3 * 3 - first) for t in range(LENGTH)]
    rows.close()


def test_rows_are_mixed_by_weight_and_every_source_keeps_its_order() -> None:
    rows = streamed(([40, 40], 3.0), ([5], 1.0), ([9], 0.5))
    seen = rows[:3000][:, 0]
    counts = np.bincount(seen // 10_000)
    assert np.abs(counts - 3000 * np.array([3, 1, 0.5]) / 4.5).max() <= 3
    assert np.bincount(rows[1000:2000][:, 0] // 10_000).tolist() == shares([3, 1, 0.5], 1000).tolist()
    alone = streamed(([40, 40], 1.0))
    assert seen[seen < 10_000].tolist() == alone[: counts[0]][:, 0].tolist()
    second = seen[seen // 10_000 == 1] - 10_000  # five rows, again and again, in new orders
    assert all(sorted(second[i : i + 5]) == list(range(5)) for i in range(0, 100, 5))
    assert len({tuple(second[i : i + 5]) for i in range(0, 100, 5)}) > 10
    assert not np.array_equal(seen, streamed(([40, 40], 3.0), ([5], 1.0), ([9], 0.5), seed=1)[:3000][:, 0])


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_shares_are_the_weights(weights: list[float]) -> None:
    counts = shares(weights, 1000)
    exact = np.array(weights) / sum(weights) * 1000
    assert counts.sum() == 1000 and counts.min() >= 1
    assert (np.abs(counts - exact) <= np.maximum(1, np.sum(exact < 1))).all()


def test_the_order_is_pinned() -> None:
    """A change here breaks the resumption of runs that others have started."""
    rows = streamed(([5, 3], 1.0), ([4], 2.0), seed=3)
    assert rows[:12][:, 0].tolist() == [1, 2, 10003, 4, 3, 0, 10001, 10000, 101, 10002, 10001, 10002]
    rows.close()


def test_no_more_is_made_than_is_needed_and_one_shard_ahead() -> None:
    calls: list[int] = []
    rows = StreamedRows([(maker(0, [3] * 50, calls), 1.0)], LENGTH, 0)
    assert rows[[0, 2]].shape == (2, LENGTH)
    rows.close()
    assert max(calls) <= 1
    calls.clear()
    rows = StreamedRows([(maker(0, [3] * 50, calls), 1.0)], LENGTH, 0)
    rows[13]
    rows.close()
    assert calls[:5] == [0, 1, 2, 3, 4] and len(calls) <= 6


def test_the_next_shard_is_made_while_this_one_is_trained_on() -> None:
    begun, go = threading.Event(), threading.Event()

    def make(number: int) -> Shard | None:
        if number == 1:
            begun.set()
            assert go.wait(30)
        return maker(0, [3, 3])(number)

    rows = StreamedRows([(make, 1.0)], LENGTH, 0)
    assert rows[:3].shape == (3, LENGTH)  # the second shard is not there
    assert begun.wait(30)
    go.set()
    assert rows[3:6].shape == (3, LENGTH)
    rows.close()


def test_what_goes_wrong_in_a_shard_is_told_to_whoever_waits_for_it() -> None:
    def make(number: int) -> Shard | None:
        time.sleep(0.01)
        raise ValueError(f"[data] shard {number}")

    rows = StreamedRows([(make, 1.0)], LENGTH, 0)
    with pytest.raises(ValueError, match="shard 0"):
        rows[0]
    rows.close()


def test_text_without_a_row_is_refused() -> None:
    rows = streamed(([0, 0], 1.0))
    with pytest.raises(ValueError, match="one row of 4 training tokens is needed"):
        rows[0]
    with pytest.raises(ValueError, match="a batch of 2 rows of 4 needs 8 training tokens, got 0"):
        require_rows(rows, 2)
    rows.close()


def test_batches_go_along_the_stream() -> None:
    rows = streamed(([7, 2], 1.0))
    batches = Batches(rows, 4, 5)
    assert np.array_equal(batches.batch(10**9), rows[4 * 10**9 : 4 * 10**9 + 4])
    assert np.array_equal(batches.starts(2), rows.document_starts(np.arange(8, 12)))
    assert draw(rows, 100, 0).tolist() == list(range(9))
    assert np.array_equal(tokens_of(rows, slice(0, 3)), rows[:3])
    starts = starts_of(rows, slice(0, 3))
    assert starts is not None and starts.shape == (3, LENGTH)
    rows.close()
