"""What may be drawn, and how often."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnedit.generate import Sampling


@settings(max_examples=60)
@given(
    st.integers(1, 60), st.floats(0.1, 3.0), st.integers(0, 20), st.floats(0.05, 1.0), st.booleans(),
    st.integers(0, 2**31),
)  # fmt: skip
def test_the_distribution_is_the_definition(
    size: int, temperature: float, top_k: int, top_p: float, ties: bool, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    if ties:
        logits = np.round(logits)
    tokens, p = Sampling(temperature, top_k, top_p).distribution(logits)

    want = np.exp(logits.astype(np.float64) / temperature)
    kept = min(top_k, size) if top_k else size
    want /= np.sort(want)[::-1][:kept].sum()  # among the k likeliest
    # Likelier tokens first, k of them, and the fewest whose probability reaches top_p.
    left_out = np.delete(want, tokens)
    assert len(left_out) == 0 or left_out.max() <= want[tokens].min() * (1 + 1e-5)
    assert len(set(tokens.tolist())) == len(tokens) <= kept
    np.testing.assert_allclose(p, want[tokens], rtol=1e-4)
    assert p.sum() >= top_p - 1e-5
    assert len(p) == 1 or p.sum() - p.min() < top_p + 1e-5


def test_draws_follow_the_distribution() -> None:
    sampling, p = Sampling(temperature=1.0, seed=5), np.array([0.5, 0.3, 0.15, 0.05])
    generator = sampling.generator(0)
    drawn = np.bincount([sampling.choose(np.log(p).astype(np.float32), generator) for _ in range(4000)], minlength=4)
    assert np.abs(drawn / 4000 - p).max() < 0.03


def test_greedy_takes_the_first_of_equals() -> None:
    sampling = Sampling()
    assert sampling.choose(np.array([0, 2, 2, 1], np.float32), sampling.generator(0)) == 1


def test_logits_that_are_no_numbers_are_told() -> None:
    with pytest.raises(ValueError, match="logits must be finite, got nan for token 1"):
        Sampling().choose(np.array([0, np.nan], np.float32), np.random.default_rng(0))
