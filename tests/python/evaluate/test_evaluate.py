"""Comparison by context."""

import numpy as np
import pytest
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit.models import Decoder


def test_early_and_late_are_what_short_rows_say(teacher: Decoder, rows: np.ndarray) -> None:
    """A decoder is causal: the first quarter of long rows is the whole of short ones."""
    student = random_decoder(tiny_config(), seed=1)
    whole = ae.evaluate(student, teacher, list(rows))
    short = ae.evaluate(student, teacher, list(rows[:, :8]))  # positions 0 to 6 predict
    assert (whole.early.first, whole.early.last, whole.late.first, whole.late.last) == (0, 6, 24, 30)
    assert whole.early.tokens == short.tokens == 7 * len(rows)
    for name in ("teacher_nll", "student_nll", "kl", "top1_agreement"):
        assert getattr(whole.early, name) == pytest.approx(getattr(short, name), rel=1e-5), name
        assert getattr(whole.late, name) != getattr(whole.early, name)
