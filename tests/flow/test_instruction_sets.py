"""One recipe on every instruction set that the processor has: the same bits on one, a stated difference between two."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import ATTNEDIT
from safetensors.numpy import load_file
from tiny import write_recipe

# Between two instruction sets sums have another order. What that makes of a short conversion of the tiny model is at
# most this: of weights, as a share of the largest of their tensor; of the divergence from the teacher, nats per token.
WEIGHTS, KL = 1e-5, 1e-6
# Training amplifies it: after 78 steps a phase of a real model.
LONGER_WEIGHTS, LONGER_KL = 1e-2, 1e-4
TIERS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")


def convert(folder: Path, tier: str) -> Path | None:
    """Of the tiny model. None where the processor lacks it."""
    folder.mkdir()
    return run_recipe(write_recipe(folder, layerwise={"tokens": 8_000}, modelwise={"tokens": 8_000}), tier)


def run_recipe(recipe: Path, tier: str) -> Path | None:
    done = subprocess.run(
        [*ATTNEDIT, "convert", str(recipe)], env=os.environ | {"ATTNEDIT_ISA": tier}, capture_output=True, text=True
    )
    if done.returncode == 2 and "[ATTNEDIT_ISA]" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return recipe.parent / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiers")
    return {tier: run for tier in TIERS if (run := convert(folder / tier, tier)) is not None}


def test_every_instruction_set_ends_near_the_others(runs: dict[str, Path]) -> None:
    assert_near(runs, WEIGHTS, KL)


def test_a_real_models_longer_runs_end_near_each_other(material: Path, tmp_path: Path) -> None:
    text = (material / "corpora/tinystories_train_head_2MiB.txt").read_text()
    runs = {}
    for tier in ("portable", "avx2"):
        (tmp_path / tier).mkdir()
        (tmp_path / tier / "corpus.txt").write_text(text[:300_000])
        recipe = {
            "teacher": str(material / "models/stories260K"), "run": "run", "layerwise": {"tokens": 20_000},
            "target": {"attention": "mla", "kv_lora_rank": 10, "qk_rope_head_dim": 8}, "modelwise": {"tokens": 20_000},
            "data": {"train": ["corpus.txt"], "separator": "<|endoftext|>", "sequence_length": 128},
        }  # fmt: skip
        (tmp_path / tier / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        if (run := run_recipe(tmp_path / tier / "recipe.yaml", tier)) is not None:
            runs[tier] = run
    assert_near(runs, LONGER_WEIGHTS, LONGER_KL)


def assert_near(runs: dict[str, Path], weights_apart: float, kl_apart: float) -> None:
    if len(runs) < 2:
        pytest.skip(f"this processor has {', '.join(runs)} only: two instruction sets to compare")
    first, *others = runs.values()
    report = json.loads((first / "report.json").read_text())
    weights = load_file(first / "student/model.safetensors")
    for run in others:
        again = json.loads((run / "report.json").read_text())
        apart = {phase: abs(kl - again["kl"][phase]) for phase, kl in report["kl"].items()}
        assert max(apart.values()) < kl_apart, (run, apart)
        for name, values in load_file(run / "student/model.safetensors").items():
            most = np.abs(values - weights[name]).max() / np.abs(weights[name]).max()
            assert most < weights_apart, (run, name, most)


def test_one_instruction_set_gives_the_same_bits(runs: dict[str, Path], tmp_path: Path) -> None:
    tier, run = list(runs.items())[-1]
    again = convert(tmp_path / "again", tier)
    assert again is not None
    first, second = ((one / "student/model.safetensors").read_bytes() for one in (run, again))
    assert first == second
