"""One recipe on every instruction set that the processor has: the same bits on one, a stated difference between two."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command import ATTNEDIT
from safetensors.numpy import load_file
from tiny import write_recipe

# Between two instruction sets sums have another order. What that makes of a short conversion of the tiny model is at
# most this: of weights, as a share of the largest of their tensor; of the divergence from the teacher, nats per token.
WEIGHTS, KL = 1e-5, 1e-6
TIERS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")


def convert(folder: Path, tier: str) -> Path | None:
    """None where the processor lacks it."""
    folder.mkdir()
    recipe = write_recipe(folder, layerwise={"tokens": 8_000}, modelwise={"tokens": 8_000})
    done = subprocess.run(
        [*ATTNEDIT, "convert", str(recipe)], env=os.environ | {"ATTNEDIT_ISA": tier}, capture_output=True, text=True
    )
    if done.returncode == 2 and "[ATTNEDIT_ISA]" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiers")
    return {tier: run for tier in TIERS if (run := convert(folder / tier, tier)) is not None}


def test_every_instruction_set_ends_near_the_others(runs: dict[str, Path]) -> None:
    if len(runs) < 2:
        pytest.skip(f"this processor has {', '.join(runs)} only: two instruction sets to compare")
    first, *others = runs.values()
    report = json.loads((first / "report.json").read_text())
    weights = load_file(first / "student/model.safetensors")
    for run in others:
        again = json.loads((run / "report.json").read_text())
        apart = {phase: abs(kl - again["kl"][phase]) for phase, kl in report["kl"].items()}
        assert max(apart.values()) < KL, (run, apart)
        for name, values in load_file(run / "student/model.safetensors").items():
            most = np.abs(values - weights[name]).max() / np.abs(weights[name]).max()
            assert most < WEIGHTS, (run, name, most)


def test_one_instruction_set_gives_the_same_bits(runs: dict[str, Path], tmp_path: Path) -> None:
    tier, run = list(runs.items())[-1]
    again = convert(tmp_path / "again", tier)
    assert again is not None
    first, second = ((one / "student/model.safetensors").read_bytes() for one in (run, again))
    assert first == second
