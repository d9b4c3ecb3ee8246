"""Whole models against what Hugging Face computed for them; tests/golden/make_golden.py says how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import attnedit as ae
from attnedit.autograd import backward
from attnedit.checkpoint import save_checkpoint
from attnedit.distill.optimizer import trainable
from attnedit.models import Decoder
from attnedit.models.llama import tensor_name
from attnedit.tensor import Tensor

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))


@dataclass(frozen=True)
class Golden:
    raw: dict[str, Any]
    arrays: Mapping[str, np.ndarray]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): a for key, a in self.arrays.items() if key.startswith(prefix)}


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    path = GOLDEN / f"{request.param}.safetensors"
    with safe_open(path, framework="numpy") as file:
        raw = json.loads(file.metadata()["config"])
    return Golden(raw, load_file(path))


def decoder_of(golden: Golden, folder: Path, dtype: type) -> Decoder:
    weights = golden.part("weight/")
    save_checkpoint(folder, golden.raw, {name: array.astype(dtype) for name, array in weights.items()})
    return ae.load(folder)


def test_the_goldens_are_there_and_small() -> None:
    assert len(NAMES) >= 5
    assert sum((GOLDEN / f"{name}.safetensors").stat().st_size for name in NAMES) < 250_000


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_logits_and_the_first_block(golden: Golden, tmp_path: Path, dtype: type) -> None:
    model = decoder_of(golden, tmp_path / "model", dtype)
    tokens, features = golden.arrays["tokens"], list[Tensor]()
    model(tokens, features)
    assert np.abs(features[0].numpy() - golden.arrays["block"]).max() < 1e-4
    assert np.abs(model.logits(tokens).numpy() - golden.arrays["logits"]).max() < 1e-4


def test_gradients(golden: Golden, tmp_path: Path) -> None:
    model = decoder_of(golden, tmp_path / "model", np.float32)
    for path, parameter in list(model.named_parameters()):
        if ".experts." not in path:  # which have none
            model.set_parameter(path, trainable(parameter))
    logits = model.logits(golden.arrays["tokens"])
    backward([logits], [np.ascontiguousarray(golden.arrays["cotangent"])])
    ae.runtime.synchronize()
    ours = {tensor_name(path): p.grad for path, p in model.named_parameters()}
    expected = golden.part("grad/")
    assert len(expected) >= 3
    for name, grad in expected.items():
        got = ours[name]
        assert got is not None, name
        np.testing.assert_allclose(got, grad, rtol=0, atol=3e-5 * np.abs(grad).max(), err_msg=name)


def test_the_goldens_feel_what_they_test(golden: Golden, tmp_path: Path) -> None:
    """Rotation, scaling and window each move the logits far beyond the tolerance, so leaving one out cannot pass."""
    raw = {k: v for k, v in golden.raw.items() if k not in ("rope_parameters", "use_sliding_window", "rope_theta")}
    if raw == {k: v for k, v in golden.raw.items() if k != "rope_theta"}:
        raw["rope_theta"] = 100.0
    changed = decoder_of(Golden(raw, golden.arrays), tmp_path / "model", np.float32)
    assert np.abs(changed.logits(golden.arrays["tokens"]).numpy() - golden.arrays["logits"]).max() > 1e-2
