"""JSON objects as checkpoints hold them, refused in one line where they are not."""

import json
from collections import Counter
from pathlib import Path
from typing import Any


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object without repeated names. Raises ValueError starting with `where`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise _RepeatedName(Counter(name for name, _ in pairs).most_common(1)[0][0])
        return made

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
    except _RepeatedName as error:
        raise ValueError(f"{where} names {error.args[0]!r} twice") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be UTF-8, byte {error.start} is not") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(parsed).__name__}")
    return parsed


class _RepeatedName(Exception):
    pass


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    must_be_file(path)
    return parse_object(path.read_bytes(), f"[checkpoint] {path}")


def must_be_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"[checkpoint] {path} {'must be a file' if path.exists() else 'is missing'}")
