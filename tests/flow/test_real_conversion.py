"""Conversions of real weights on real text: small enough for every change; benchmarks/flow/quality.py has the rest."""

from pathlib import Path

import numpy as np
import pytest

import attnedit as ae
from attnedit.data import Tokenizer, heldout_rows, pack
from attnedit.models import Decoder


@pytest.fixture(scope="module")
def stories(material: Path) -> tuple[Decoder, np.ndarray, list[np.ndarray]]:
    """The teacher, training rows and a tenth of the held-out stories."""
    folder = material / "models/stories260K"
    text = (material / "corpora/tinystories_train_head_2MiB.txt").read_text("utf-8").split("<|endoftext|>")
    whole = [story.strip() for story in text[:-1] if story.strip()]
    tokenizer = Tokenizer(folder)
    training = pack(tokenizer.encode_documents(whole[:400]), 512).tokens
    return ae.load(folder), training, heldout_rows(tokenizer.encode_documents(whole[-30:]), 512)


Stories = tuple[Decoder, np.ndarray, list[np.ndarray]]


def test_regression_starts_within_reach_of_the_teacher(stories: Stories) -> None:
    teacher, tokens, heldout = stories
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=10, qk_rope_head_dim=8), tokens)
    assert ae.evaluate(student, teacher, heldout).kl <= 1.95


def test_auto_keeps_the_layer_that_trials_found_best(stories: Stories) -> None:
    teacher, tokens, _ = stories
    student = ae.edit(teacher, ae.GateSWA(sliding_window=32), tokens)
    full = [i for i, layer in enumerate(student.config.attention) if layer.sliding_window is None]  # type: ignore[union-attr]
    assert full == [4]


def test_window_as_long_as_the_text_is_the_teacher(stories: Stories) -> None:
    teacher, tokens, heldout = stories
    student = ae.edit(teacher, ae.GateSWA(sliding_window=512, full_layers=()), tokens)
    assert ae.evaluate(student, teacher, heldout).kl <= 1e-6


def test_a_short_training_with_default_rates_brings_mla_nearer(stories: Stories) -> None:
    teacher, tokens, heldout = stories
    nll = []
    for compute in ("float32", "bfloat16"):
        student = ae.edit(teacher, ae.MLA(kv_lora_rank=24, qk_rope_head_dim=8), tokens)
        start = ae.evaluate(student, teacher, heldout).kl
        with ae.compute(compute):
            ae.distill.layerwise(student, teacher, tokens, ae.distill.LayerwiseOptions(tokens=50_000))
            middle = ae.evaluate(student, teacher, heldout).kl
            result = ae.distill.modelwise(student, teacher, tokens, ae.distill.ModelwiseOptions(tokens=50_000))
        assert result.kept
        end = ae.evaluate(student, teacher, heldout)
        assert end.kl < middle < start
        nll.append(end.student_nll)
    assert abs(nll[1] - nll[0]) < 0.01
