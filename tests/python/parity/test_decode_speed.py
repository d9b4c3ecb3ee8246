"""transformers decodes what `attnedit evaluate --decode` gives it."""

import sys
from pathlib import Path

import pytest
from tiny import random_decoder, tiny_config

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import attnedit as ae
from attnedit.evaluate import decode_speed as speed
from attnedit.nn import GateSWAConfig


def test_the_peer_decodes_every_kind_of_folder(tmp_path: Path) -> None:
    """Ours too, by the file that attnedit has: the folder's own code is not run."""
    model = random_decoder(tiny_config(attention=(GateSWAConfig(4, 2, 8, sliding_window=9, gate="sigmoid"),)))
    folder = ae.export(model, tmp_path / "ours", "attnedit")
    (folder / "modeling_attnedit.py").write_text("raise SystemExit('this ran')")
    (measured,) = speed.transformers_speed(folder, [64], sys.executable)["speeds"]
    # Its window keeps one token less than ours, which includes the query's own.
    assert measured["cache_bytes"] == 2 * 8 * 4 * 2 * 8
    assert 0 < measured["slowest"] <= measured["tokens_per_second"] <= measured["fastest"]
