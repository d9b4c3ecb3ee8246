"""transformers decodes what `attnedit evaluate --decode` gives it."""

import sys
from pathlib import Path

import pytest
from tiny import EXPERTS, random_decoder, tiny_config

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import attnedit as ae
from attnedit.evaluate import decode_speed as speed
from attnedit.nn import GateSWAConfig, MLAConfig


def test_the_peer_decodes_our_own_folders(tmp_path: Path) -> None:
    """By the file that attnedit has: the folder's own code is not run."""
    model = random_decoder(tiny_config(attention=(GateSWAConfig(4, 2, 8, sliding_window=9, gate="sigmoid"),)))
    folder = ae.export(model, tmp_path / "ours", "attnedit")
    (folder / "modeling_attnedit.py").write_text("raise SystemExit('this ran')")
    (measured,) = speed.transformers_speed(folder, [64], sys.executable)["speeds"]
    # Its window keeps one token less than ours, which includes the query's own.
    assert measured["cache_bytes"] == 2 * 8 * 4 * 2 * 8
    assert 0 < measured["slowest"] <= measured["tokens_per_second"] <= measured["fastest"]


def test_the_peer_decodes_classes_that_are_loaded_by_name(tmp_path: Path) -> None:
    model = random_decoder(tiny_config(model_type="qwen3_moe", attention=(MLAConfig(4, 12, 6, 4, 8),), moe=EXPERTS))
    folder = ae.export(model, tmp_path / "mistral", "mistral4")
    (measured,) = speed.transformers_speed(folder, [64], sys.executable)["speeds"]
    assert measured["cache_bytes"] == model.config.kv_numbers(64) * 4
