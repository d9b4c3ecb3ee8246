"""JSON objects in files, and in the lines of logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnedit.foreign import parse_object

# Of a config or an index. Parsed JSON takes up to 25 times its size; the largest published index has 9 MB.
MOST_JSON_BYTES = 2**25


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
