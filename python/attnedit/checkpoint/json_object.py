"""JSON objects as checkpoints hold them, refused in one line where they are not."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnedit.checked import shown

# Of a config or an index. Parsed JSON takes up to 25 times its size; the largest published index has 9 MB.
MOST_JSON_BYTES = 2**25


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
        raise ValueError(f"{where} must be JSON: {error}") from None
    return parsed


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _RepeatedName(Exception):
    pass


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    must_be_file(path)
    with path.open("rb") as file:
        text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise ValueError(f"[checkpoint] {path} must have at most {MOST_JSON_BYTES} bytes, got more")
    return parse_object(text, f"[checkpoint] {path}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a log, a line each. What a kill or a bad disk made of a line, if it is none, is left out."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(parse_object(line, ""))
        except ValueError:
            continue
    return found


@contextmanager
def remade(path: Path) -> Iterator[None]:
    """Around the reading of a file that a run keeps for itself: what is there and is none of ours can be made again."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if not path.exists():
            raise
        raise type(error)(f"{error}: it is damaged; remove it to have it made again") from None


def must_be_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"[checkpoint] {path} {'must be a file' if path.exists() else 'is missing'}")
