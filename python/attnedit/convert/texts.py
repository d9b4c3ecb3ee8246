"""Which text a recipe means, known by its hash. A file is hashed again only where it was touched since."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from attnedit.checkpoint import read_sealed
from attnedit.convert.recipe import Recipe
from attnedit.data import Part, Source, fingerprint, parts
from attnedit.data.files import format_of

SETTLED = 2  # seconds: a file may be written to again within the same tick of its clock
NAMED = 3  # files of those that differ


@dataclass(frozen=True)
class Pool:
    """Text that is read as one, its parts in the order of the recipe."""

    parts: list[Part]
    weight: float


@dataclass(frozen=True)
class Texts:
    """Which text there is; none of it is in memory."""

    training: list[Pool]
    heldout: list[Part] | None  # None: a share of the training text
    fingerprint: str  # SHA-256: the files' contents, how they are read and mixed
    hashes: dict[str, Any]  # path -> its stamp and its SHA-256, for another start's `known`
    stamps: dict[Path, list[int]]  # what each file was when it was hashed
    changes: str  # by which files it differs from the earlier start's, if that is known

    def documents(self, part: Part) -> Iterator[str]:
        """The documents of a part of it. Raises ValueError where its file is not what was hashed any more."""
        self.require_unchanged(part.path)
        try:
            yield from part.documents()
        except (OSError, ValueError):  # a file that somebody is writing to breaks off anywhere
            self.require_unchanged(part.path)
            raise
        self.require_unchanged(part.path)

    def require_unchanged(self, path: Path) -> None:
        """A text is hashed once and read for days: what is read must be what was hashed."""
        if _stamp(path) != self.stamps[path]:
            raise _changed(path)


def find_texts(recipe: Recipe, known: Path | None = None) -> Texts:
    """Reads the files once, for their fingerprint; known: a file with the hashes of an earlier start."""
    data = recipe.data
    training = pools(data.train, data.separator)
    heldout = None
    if data.heldout is not None:
        heldout = all_parts(data.heldout, data.separator)
    every = [*training, *([] if heldout is None else [Pool(heldout, 0)])]
    before, hashes, read, stamps, said = _read_known(known), {}, {}, {}, []
    for pool in every:
        files = {(part.path, part.field, part.separator): part.end for part in pool.parts}
        for (path, _, _), end in files.items():
            if path not in read:
                stamp, began = _stamp(path), time.time_ns()
                old = before.get(str(path), {})
                read[path] = old["sha256"] if old.get("stamp") == stamp else fingerprint([path])
                grown = end != stamp[0] and format_of(path) != "parquet"  # since its parts were found
                if grown or _stamp(path) != stamp:
                    raise _changed(path)
                stamps[path] = stamp
                settled = max(stamp[1:3]) < began - SETTLED * 10**9
                hashes[str(path)] = {"stamp": stamp if settled else None, "sha256": read[path]}
        said.append([pool.weight, [(read[path], *how) for path, *how in files]])
    made_from = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    return Texts(training, heldout, made_from, hashes, stamps, _changes(before, hashes))


def _changed(path: Path) -> ValueError:
    return ValueError(
        f"[data] {path} was {'changed' if path.exists() else 'removed'} while the run read it; start again when nobody "
        "writes to it: the run continues if the text is the same as before"
    )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first files that are not what they were; one that only lies elsewhere is."""
    if not before:
        return ""
    same = {path for path, one in now.items() if before.get(path, {}).get("sha256") == one["sha256"]}
    left = Counter(one["sha256"] for path, one in before.items() if path not in same)
    told = []
    for path, one in now.items():
        if path not in same and left[one["sha256"]] == 0:
            told.append(f"{path} {'differs' if path in before else 'is new'}")
        elif path not in same:
            left[one["sha256"]] -= 1
    told += [f"{path} is gone" for path, one in before.items() if path not in now and left[one["sha256"]] > 0]
    if not told:
        return "the files are the same, but not their order, field, separator or weight"
    return ", ".join(told[:NAMED]) + (f" and {len(told) - NAMED} more" if len(told) > NAMED else "")


def _stamp(path: Path) -> list[int]:
    """What a file's system changes whenever somebody writes into the file, or puts another into its place; [] where
    there is none."""
    if not path.exists():
        return []
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_known(known: Path | None) -> dict[str, Any]:
    if known is None or not known.exists():
        return {}
    try:
        return read_sealed(known)
    except ValueError:  # it saves time and nothing else
        return {}


def all_parts(entries: Sequence[str | Source], separator: str | None) -> list[Part]:
    return [part for pool in pools(entries, separator) for part in pool.parts]


def pools(entries: Sequence[str | Source], separator: str | None) -> list[Pool]:
    """The text of a recipe's entries. Raises ValueError for a pattern without a file."""
    sources = [Source([entry]) if isinstance(entry, str) else entry for entry in entries]
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and len(weights) < len(sources):
        raise ValueError(
            f"[data] weight must be given for every source or for none, got {len(weights)} of {len(sources)}"
        )
    found = [parts(s if s.separator else replace(s, separator=separator), Path()) for s in sources]
    if not weights:
        return [Pool(list(dict.fromkeys(chain.from_iterable(found))), 1.0)]
    return [Pool(list(one), weight) for one, weight in zip(found, weights, strict=True)]
