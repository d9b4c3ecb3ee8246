"""Batches are a function of the step, and every epoch sees every row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnedit.data import Batches, Rows, require_rows


def numbered(count: int, length: int = 3) -> np.ndarray:
    """Row i begins with i."""
    return np.arange(count, dtype=np.int32)[:, None] + np.arange(length, dtype=np.int32) * 1000


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**64 - 1), st.integers(1, 4))
def test_the_batches_of_an_epoch_are_a_permutation(rows: int, per_batch: int, seed: int, epochs: int) -> None:
    batches = Batches(numbered(rows), per_batch, seed)
    steps = -(-epochs * rows // per_batch)
    seen = np.concatenate([batches.batch(step) for step in range(steps)])
    assert seen.dtype == np.int32 and seen.shape == (steps * per_batch, 3)
    for epoch in range(epochs):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows, 0]) == list(range(rows))
    assert (seen[:, 2] - seen[:, 0] == 2000).all()


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99), st.lists(st.integers(0, 50), max_size=6))
def test_a_resumed_run_gets_the_same_batches(rows: int, per_batch: int, seed: int, steps: list[int]) -> None:
    straight = Batches(Rows(numbered(rows)), per_batch, seed)
    wanted = [straight.batch(step) for step in range(51)]
    for step in steps:
        assert np.array_equal(Batches(numbered(rows), per_batch, seed).batch(step), wanted[step])
        assert np.array_equal(straight.batch(step), wanted[step])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    batches = Batches(numbered(100), 100, 0)
    first, second, other = batches.batch(0), batches.batch(1), Batches(numbered(100), 100, 1).batch(0)
    assert not np.array_equal(first, second) and not np.array_equal(first, other) and not np.array_equal(second, other)
    assert not np.array_equal(first, numbered(100))


def test_the_order_is_pinned() -> None:
    """A change here breaks the resumption of runs that others have started."""
    assert Batches(numbered(8), 8, 3).batch(0)[:, 0].tolist() == [6, 1, 5, 2, 7, 4, 3, 0]


def test_a_far_step_costs_no_more_than_a_near_one() -> None:
    assert Batches(numbered(7), 2, 0).batch(10**15).shape == (2, 3)


@pytest.mark.parametrize(
    ("rows", "per_batch", "seed", "message"),
    [(0, 1, 0, "rows must have"), (1, 0, 0, "rows_per_batch must be at least 1, got 0"), (1, 1, -1, "seed must lie")],
)
def test_bad_arguments_are_refused(rows: int, per_batch: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(numbered(rows), per_batch, seed)
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        Batches(numbered(1), 1, 0).batch(-1)


def test_a_tiny_corpus_is_refused_with_both_numbers() -> None:
    require_rows(numbered(4), 4)
    with pytest.raises(ValueError, match="a batch of 5 rows of 3 needs 15 training tokens, got 12"):
        require_rows(Rows(numbered(4)), 5)
