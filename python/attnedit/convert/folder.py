"""The run folder: who owns it, what it was made from, and the small results that a continued run reads again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attnedit.checkpoint import atomic_write


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; a second one is refused. The lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"[convert] {folder} is in use by another process") from None
    try:
        yield
    finally:
        lock.release()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"train": x}} -> {"data.train": x}"""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def same_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Writes what the run is made from; a folder made from something else is refused, the difference named."""
    path = folder / "provenance.json"
    mine = json.loads(json.dumps(flat(inputs)))
    if path.exists():
        theirs = flat(json.loads(path.read_text()))
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise ValueError(
                    f"[convert] {folder} was made from other inputs: {key} is {mine.get(key)!r} now and was "
                    f"{theirs.get(key)!r}; choose another run folder or remove this one"
                )
    else:
        atomic_write(path, json.dumps(inputs, indent=1))


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON result at path, computed at first need."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(compute(), indent=1))
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def text_hash(documents: list[str]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode())
        digest.update(b"\0")
    return digest.hexdigest()
