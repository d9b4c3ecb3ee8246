"""Which text a recipe means, known by its hash. A file is hashed again only where it was touched since."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from attnedit.checkpoint import read_sealed
from attnedit.convert.recipe import Recipe
from attnedit.data import Part, Source, fingerprint, parts

SETTLED = 2  # seconds: a file may be written to again within the same tick of its clock


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


def find_texts(recipe: Recipe, known: Path | None = None) -> Texts:
    """Reads the files once, for their fingerprint; known: a file with the hashes of an earlier start."""
    data = recipe.data
    training = pools(data.train, data.separator)
    heldout = None
    if data.heldout is not None:
        heldout = [part for pool in pools(data.heldout, data.separator) for part in pool.parts]
    every = [*training, *([] if heldout is None else [Pool(heldout, 0)])]
    before, hashes, read, said = _read_known(known), {}, {}, []
    for pool in every:
        files = dict.fromkeys((part.path, part.field, part.separator) for part in pool.parts)
        for path, _, _ in files:
            if path not in read:
                stamp, began = _stamp(path), time.time_ns()
                old = before.get(str(path), {})
                read[path] = old["sha256"] if old.get("stamp") == stamp else fingerprint([path])
                if max(stamp[1:3]) < began - SETTLED * 10**9 and _stamp(path) == stamp:
                    hashes[str(path)] = {"stamp": stamp, "sha256": read[path]}
        said.append([pool.weight, [(read[path], *how) for path, *how in files]])
    return Texts(training, heldout, hashlib.sha256(json.dumps(said).encode()).hexdigest(), hashes)


def _stamp(path: Path) -> list[int]:
    """What a file's system changes whenever somebody writes into the file, or puts another into its place."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_known(known: Path | None) -> dict[str, Any]:
    if known is None or not known.exists():
        return {}
    try:
        return read_sealed(known)
    except ValueError:  # it saves time and nothing else
        return {}


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
