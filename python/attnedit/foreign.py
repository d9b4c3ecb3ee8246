"""Files that others wrote: their JSON, and where their links lead; refused in one line."""

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from attnedit.checked import shown

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object without repeated names. Raises ValueError starting with `where`."""
    parsed = parse_json(text, where)
    if not isinstance(parsed, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(parsed).__name__}")
    return parsed


def parse_json(text: bytes, where: str) -> Any:
    """JSON without names that an object has twice, and without text that is none: halves of surrogate pairs."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise _RepeatedName(Counter(name for name, _ in pairs).most_common(1)[0][0])
        return made

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
        if _SURROGATE.search(text):
            json.dumps(parsed, ensure_ascii=False).encode()
    except _RepeatedName as error:
        raise ValueError(f"{where} names {shown(error.args[0])} twice") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be UTF-8, byte {error.start} is not") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} must be Unicode, got {shown(error.object[error.start])} by itself") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} must be JSON: {json_fault(error)}") from None
    return parsed


class _RepeatedName(Exception):
    pass


def json_fault(error: ValueError | RecursionError) -> str:
    """What json.loads raised, in our words. Of a single line only the column is told, since the file's line may be
    another than its first."""
    if isinstance(error, json.JSONDecodeError):
        lines = "\n" in error.doc.rstrip()
        at = f"line {error.lineno} column {error.colno}" if lines else f"column {error.pos + 1}"
        return f"{error.msg.removesuffix(' at')} at {at}"
    if isinstance(error, RecursionError):
        return "it is too deep to read"
    return f"a whole number in it has more than {sys.get_int_max_str_digits()} digits"


def require_inside(folder: Path, path: Path) -> None:
    """A file that somebody else's folder takes from outside would be read, and exported, as a part of the model."""
    if not _stays_inside(folder, path):
        raise ValueError(f"[checkpoint] {path} must lie in its folder, it is a link to {os.path.realpath(path)}")


def _stays_inside(folder: Path, path: Path) -> bool:
    """Whether links end in folder or, in the Hugging Face cache, go from snapshots/x to the blobs beside it."""
    real = Path(os.path.realpath(path))
    home = Path(os.path.realpath(folder))
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    return any(real.is_relative_to(root) for root in allowed)
