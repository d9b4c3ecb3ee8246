"""checkpoint/folder.py: an index over two shards."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from fuzz.mutate import json_text as mutated

from attnedit.checkpoint import Checkpoint, save_checkpoint

__all__ = ["mutated", "one_input", "seeds"]
INDEX = "model.safetensors.index.json"
TENSORS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcd")}


@cache
def _sharded(folder: Path) -> Path:
    save_checkpoint(folder / "model", {"model_type": "qwen3"}, TENSORS, shard_bytes=48)
    (folder / "x.safetensors").write_bytes(b"outside")
    return folder / "model"


def seeds() -> list[bytes]:
    shards = {name: f"model-0000{1 + i // 2}-of-00002.safetensors" for i, name in enumerate("abcd")}
    return [json.dumps({"metadata": {"total_size": 96}, "weight_map": shards}).encode()]


def one_input(data: bytes, folder: Path) -> None:
    model = _sharded(folder)
    (model / INDEX).write_bytes(data)
    checkpoint = Checkpoint.open(model)
    assert set(checkpoint.names()) <= TENSORS.keys()
    assert all(path.parent == model for path in checkpoint.weight_files)
