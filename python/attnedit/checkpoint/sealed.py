"""JSON objects that a run keeps for itself, each with a checksum of its own: a flipped bit is found by who reads it."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnedit.checkpoint.atomic import atomic_write
from attnedit.checkpoint.json_object import read_object, remade

SEAL = "crc32"


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Puts values, and the CRC-32 of what they say under "crc32", into a JSON file, whole or not at all."""
    atomic_write(path, json.dumps({**values, SEAL: _seal(values)}, indent=1))


def read_sealed(path: Path) -> dict[str, Any]:
    """The values that write_sealed stored. Raises ValueError with the file's name where they are not as written."""
    with remade(path):
        values = read_object(path)
    if values.pop(SEAL, None) != _seal(values):
        raise ValueError(
            f"[checkpoint] {path} is damaged: it does not have its checksum; remove the file to have it made again"
        )
    return values


def _seal(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
