"""checkpoint/safetensors_file.py: a file, opened and looked at."""

import json
import struct
from pathlib import Path

import numpy as np
from fuzz import mutate
from safetensors.numpy import save

from attnedit.checkpoint.safetensors_file import SafetensorsFile


def seeds() -> list[bytes]:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
    return [save(arrays, {"format": "pt"}), save({}), save({"w": np.zeros((0, 3), np.int8)})]


def mutated(data: bytes, seed: int) -> bytes | None:
    """The header changed as JSON, its length put right again."""
    length = int.from_bytes(data[:8], "little")
    header = mutate.json_text(data[8 : 8 + length], seed)
    return None if header is None else struct.pack("<Q", len(header)) + header + data[8 + length :]


def one_input(data: bytes, folder: Path) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(data)
    file = SafetensorsFile(path)
    for name in file.stored:
        array = file.array(name)
        assert array.nbytes == len(array.tobytes()) <= len(data)
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).keys() - {"__metadata__"} == file.stored.keys()
