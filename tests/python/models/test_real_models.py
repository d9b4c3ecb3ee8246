"""Real weights against their published outputs."""

import json
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
import pytest
from safetensors.numpy import load_file

import attnedit as ae
from attnedit import ops
from attnedit.nn import Rope, RopeParameters


@pytest.mark.parametrize("case", ["greedy200", "prompt64"])
def test_stories260k_gives_the_golden_logits(material: Path, case: str) -> None:
    model = ae.load(material / "models/stories260K")
    tokens = np.array(json.loads((material / f"fixtures/stories260K_{case}.tokens.json").read_text()), np.int32)
    golden = np.fromfile(material / f"fixtures/stories260K_{case}.logits.f32", "<f4").reshape(-1, 512)
    logits = model.logits(tokens[None, : len(golden)]).numpy()[0]
    assert np.abs(logits - golden).max() < 1e-3


def test_stories260k_continues_with_the_golden_tokens(material: Path) -> None:
    model = ae.load(material / "models/stories260K")
    tokens = json.loads((material / "fixtures/stories260K_greedy200.tokens.json").read_text())
    prompts = [np.array(tokens[:n], np.int32) for n in (1, 50)]
    for prompt, made in zip(prompts, ae.generate(model, prompts, max_new_tokens=len(tokens) - 1), strict=True):
        assert [*prompt, *made.tokens][: len(tokens)] == tokens


def test_weights_are_mapped_not_copied(material: Path) -> None:
    before = ae.runtime.memory_allocated()
    model = ae.load(material / "models/stories260K")
    norms = sum(p.nbytes for p in model.parameters() if len(p.shape) == 1)
    assert ae.runtime.memory_allocated() - before < norms + 512 * 16


def fixture(material: Path, name: str) -> dict[str, np.ndarray]:
    arrays = load_file(material / "fixtures" / f"{name}.safetensors")
    return {key: np.asarray(array, np.float32) for key, array in arrays.items()}


def test_qwen3_norm_agrees_to_bfloat16_rounding(material: Path) -> None:
    """Layer 8 of the real Qwen3-0.6B. The weight is not in the fixture: one weight must explain all 16 tokens."""
    case = fixture(material, "norm-Qwen3-0.6B-00")
    x, y = case["input_hidden_states"], case["output"]
    plain = ops.rms_norm(ae.tensor(x), ae.tensor(np.ones(1024)), 1e-6).numpy()
    sure = np.abs(plain) > 0.05  # a small number's rounding says nothing of the weight
    ratio = np.where(sure, y / np.where(sure, plain, 1), np.nan).reshape(16, 1024)
    weight = np.nanmedian(ratio, axis=0)
    got = ops.rms_norm(ae.tensor(x), ae.tensor(np.nan_to_num(weight)), 1e-6).numpy()
    known = np.isfinite(weight)
    assert known.mean() > 0.95
    error = np.abs(got - y)[..., known] / np.maximum(np.abs(y)[..., known], 0.02)
    assert error.max() < 2**-6, error.max()  # two roundings to 8 bits, and the weight's own


def test_qwen3_rotary_tables_agree_to_bfloat16_rounding(material: Path) -> None:
    case = fixture(material, "attn-Qwen3-0.6B-00")
    rope = Rope(RopeParameters(rope_theta=1e4, max_position_embeddings=40960), 128)  # the base of these tables
    cos, sin = (table.numpy()[:8] for table in rope.tables(8))
    for ours, theirs in ((cos, case["cos"][0]), (sin, case["sin"][0])):
        np.testing.assert_allclose(np.concatenate([ours, ours], axis=1), theirs, atol=2**-8)
