"""What a tokenizer's files may not make the `tokenizers` library do: panic, or take memory that no text needs."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnedit.foreign import parse_json

MOST_IDS = 2**20  # as config.json's vocab_size
MOST_GROWTH = 64  # of a text's length in all steps before the model, or behind it
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """The library raises plain Exception, and where it panics, what is not even that: both as ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"[tokenizer] {doing}: {' '.join(str(error).split())[:500]}") from None


def require_no_charsmap(path: Path) -> None:
    """Precompiled, sentencepiece's own map, allocates what its first 4 bytes say, and a failure ends the process.

    No family that is read here has one. Looked for before the library sees the file.
    """
    data = path.read_bytes()
    if b"recompiled" in data or _ESCAPED_LETTER.search(data):
        # The library reads each of several equal names, and so would have made the map before it meets the last.
        raw = parse_json(data, f"[tokenizer] {path}")
        if any(step.get("type") == "Precompiled" or "precompiled_charsmap" in step for step in _steps(raw)):
            raise ValueError(f"[tokenizer] {path} must normalize in plain steps, got Precompiled")


def require_bounded(tokenizer: Any, path: Path) -> None:
    """Steps that lengthen the text multiply; twenty that double it make a gigabyte of a page."""
    before = [*_steps(_written(tokenizer.normalizer)), *_steps(_written(tokenizer.pre_tokenizer))]
    for place, steps in (("normalizer", before), ("decoder", _steps(_written(tokenizer.decoder)))):
        growth = math.prod(map(_growth, steps))
        if growth > MOST_GROWTH:
            raise ValueError(
                f"[tokenizer] {path}: the {place} may make a text at most {MOST_GROWTH} times as long, got {growth}"
            )


def _written(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _steps(raw: Any) -> Iterator[dict[str, Any]]:
    """All objects in it that are a step, sequences opened."""
    waiting = [raw]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "type" in value or "precompiled_charsmap" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list) and value and not isinstance(value[0], str):
            waiting += value


def _growth(step: dict[str, Any]) -> int:
    kind = step.get("type")
    if kind == "ByteLevel":
        return 2  # of a byte above 127 it makes a character of two
    if kind == "BertNormalizer":
        return 3  # blanks around a character
    if kind == "Prepend":
        return max(1, len(step["prepend"]))
    if kind != "Replace":
        return 1
    content, text = step["content"], step["pattern"].get("String")
    return -(-len(content) // len(text)) or 1 if text else 1 + len(content)
