"""What the tests share: real material where it is present, and tiny random models."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from tiny import random_decoder, tiny_config

from attnedit.models import Decoder

# Examples are counted, never timed: a busy machine fails nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

MATERIAL = Path(__file__).parents[2] / "shared" / "material"


@pytest.fixture(scope="session")
def material() -> Path:
    if not MATERIAL.exists():
        pytest.skip(f"{MATERIAL} is absent: real weights and texts")
    return MATERIAL


@pytest.fixture
def teacher() -> Decoder:
    return random_decoder(tiny_config())


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 37, (12, 32)).astype(np.int32)
