"""The run folder: who owns it, what it was made from, and the small results that a continued run reads again."""

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from attnedit.checkpoint import read_sealed, write_sealed

PROVENANCE, LOCK, TOKENS = "provenance.json", ".lock", "tokens"
COPY = "provenance.copy.json"  # without it a flipped bit would end a run of days


def require_ours(folder: Path) -> None:
    """Raises unless folder is free to be made, empty or a run of ours; writes nothing."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"[convert] run must be a folder, {folder} is a file")
    if not folder.is_dir() or (folder / PROVENANCE).exists() or (folder / COPY).exists():
        return
    # A run that was killed before it wrote its provenance leaves only these.
    others = [
        p.name for p in folder.iterdir() if p.name not in (LOCK, TOKENS) and not p.name.startswith(f".{PROVENANCE}.")
    ]
    if others:
        raise FileExistsError(
            f"[convert] run must be a new or empty folder or a run of attnedit; {folder} holds {min(others)}"
        )


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; a second one is refused. The lock dies with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
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


def require_same_inputs(folder: Path, inputs: Mapping[str, Any], corpus_changes: str = "") -> None:
    """A folder made from something else is refused, the difference named; only the given parts are compared.
    corpus_changes: what is known of a change of the corpus beside its hash."""
    made_from = _made_from(folder)
    if made_from is None:
        return
    mine, theirs = flat(json.loads(json.dumps(inputs))), flat({k: v for k, v in made_from.items() if k in inputs})
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            why = f" ({corpus_changes})" if key == "corpus" and corpus_changes else ""
            raise ValueError(
                f"[convert] {folder} was made from other inputs: {key} is {mine.get(key)!r} now and was "
                f"{theirs.get(key)!r}{why}; choose another run folder or remove this one"
            )


def note_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """What require_same_inputs compares from now on, in two files; one that is damaged is written again."""
    for path in (folder / PROVENANCE, folder / COPY):
        try:
            noted = read_sealed(path)
        except (OSError, ValueError):
            noted = None
        if noted != inputs:
            write_sealed(path, inputs)


def _made_from(folder: Path) -> dict[str, Any] | None:
    fault = None
    for path in (folder / PROVENANCE, folder / COPY):
        try:
            if path.exists():
                return read_sealed(path)
        except ValueError as error:
            warnings.warn(f"{error}", stacklevel=3)
            fault = path
    if fault is not None:
        raise ValueError(f"[convert] {fault} is damaged: what the run was made from is not known any more")
    return None


def kept(path: Path, compute: Callable[[], dict[str, Any]], names: Collection[str] = ()) -> dict[str, Any]:
    """The JSON result at path, computed at first need and where it is damaged; it must hold at least `names`."""
    result = None
    if path.exists():
        try:
            result = read_sealed(path)
        except ValueError as error:
            warnings.warn(f"{error}; it is made again", stacklevel=2)
    if result is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, compute())
        result = read_sealed(path)
    if not result.keys() >= set(names):
        raise ValueError(f"[convert] {path} is not a result of this version; remove it to compute it again")
    return result
