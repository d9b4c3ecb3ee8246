"""models/*.py: a config.json beside the weights of its model_type, loaded, and its rotary tables made."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from fuzz.mutate import json_text as mutated
from students import LAYERS, student

import attnedit as ae
from attnedit.foreign import parse_object
from attnedit.nn import Rope

__all__ = ["mutated", "one_input", "seeds"]


@cache
def _folders(folder: Path) -> dict[str, Path]:
    """A folder for each model_type."""
    return {format: ae.export(student(format), folder / format, format=format) for format in LAYERS}


def seeds() -> list[bytes]:
    import importlib

    made = []
    for format in LAYERS:
        writer = importlib.import_module(f"attnedit.export.{format}")
        made += [json.dumps(writer.raw_config(student(format, variant).config)).encode() for variant in range(4)]
    return made


def one_input(data: bytes, folder: Path) -> None:
    model_type = parse_object(data, "config").get("model_type")
    folders = _folders(folder)
    chosen = folders.get(model_type if isinstance(model_type, str) else "", folders["qwen3"])
    (chosen / "config.json").write_bytes(data)
    model = ae.load(chosen)
    for table in Rope(model.config.rope, 8).tables(16):
        assert np.isfinite(table.numpy()).all()
