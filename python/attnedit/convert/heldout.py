"""The held-out documents: one pass over the text finds them, and they lie on the disk, never all in memory."""

import mmap
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from attnedit.checkpoint import read_arrays, write_arrays
from attnedit.convert.progress import OnCount
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import Texts
from attnedit.data import Part, Tokenizer, digest, is_heldout, no_text
from attnedit.tensor import Array


def heldout_documents(
    path: Path, recipe: Recipe, texts: Texts, tokenizer: Tokenizer, on_part: OnCount
) -> tuple[list[Array], int, list[int]]:
    """The held-out documents' tokens, mapped; how many of them are trained on; how many documents of each pool are."""
    if not path.exists():
        with Spilled(path) as documents, Spilled(path) as tokens:
            both, limits = look(recipe, texts, documents, on_part)
            last = recipe.data.most_evaluated or len(documents)
            for encoded in tokenizer.encode_stream(documents.texts(max(0, len(documents) - last))):
                tokens.add(encoded.tobytes())
            ends = np.array(tokens.ends, np.int64) // 4
            facts = np.array([both, *limits], np.int64)
            write_arrays(path, {"tokens": tokens.mapped(np.int32), "begins": ends[:-1], "facts": facts})
    kept = read_arrays(path)
    if kept.keys() != {"tokens", "begins", "facts"}:
        raise ValueError(f"[convert] {path} is not of this version; remove it to make it again")
    both, *limits = map(int, kept["facts"])
    return np.split(kept["tokens"], kept["begins"][1:]), both, limits


class Spilled:
    """Pieces of bytes, one behind the other in a file without a name, which goes with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115, closed by __exit__
        self.ends = array("q", [0])

    def __enter__(self) -> "Spilled":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:  # a file without a name has none to tell
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self.ends.append(self.ends[-1] + len(piece))

    def texts(self, first: int) -> Iterator[str]:
        for begin, end in zip(self.ends[first:-1], self.ends[first + 1 :], strict=True):
            yield os.pread(self._file.fileno(), end - begin, begin).decode()

    def mapped(self, kind: type) -> Array:
        """All of it, as numbers that take no memory."""
        count = self.ends[-1] // np.dtype(kind).itemsize
        held = mmap.mmap(self._file.fileno(), self.ends[-1], access=mmap.ACCESS_READ) if count else b""
        return np.ndarray((count,), kind, held)


def look(recipe: Recipe, texts: Texts, heldout: Spilled, on_part: OnCount) -> tuple[int, list[int]]:
    """One pass over the documents, which puts those held out where they belong: how many of the last ones, which are
    evaluated, are trained on too; documents to train on, by pool. on_part follows it."""
    done, of = 0, len(texts.heldout or ()) + sum(len(pool.parts) for pool in texts.training)

    def counted(parts: Iterable[Part]) -> Iterator[Part]:
        nonlocal done
        for part in parts:
            yield part
            done += 1
            on_part(done, of)

    data, marks = recipe.data, array("Q")  # the beginning of each one's digest, where they have files of their own
    if texts.heldout is not None:
        for document in _documents(texts, counted(texts.heldout)):
            heldout.add(document.encode())
            marks.append(int(_short(digest(document, recipe.seed))))
    known = np.unique(np.array(marks, np.uint64)[-(data.heldout_documents or len(heldout) or 1) :])
    found = np.zeros(len(known), bool)
    left, limits, seen = data.train_documents, [], 0
    for pool in texts.training:
        count = 0
        for document in _documents(texts, counted(pool.parts)):
            mark, seen = digest(document, recipe.seed), seen + 1
            if texts.heldout is None and is_heldout(mark, data.heldout_share):
                heldout.add(document.encode())
            elif left is None or count < left:
                count += 1
                place = int(np.searchsorted(known, _short(mark)))
                if place < len(known) and known[place] == _short(mark):
                    found[place] = True
        limits.append(count)
        left = None if left is None else left - count
    if not len(heldout) or not sum(limits):
        raise ValueError(
            f"[data] of {seen:,} document{'s' if seen > 1 else ''} {'all' if len(heldout) else 'none'} fell into the "
            f"share of {data.heldout_share} that is held out: each one's hash decides, and equal ones fall together; "
            "there must be more that differ (data.separator cuts files into documents), or files under data.heldout"
        )
    return int(found.sum()), limits


def _short(mark: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(mark[:8], "big"))


def _documents(texts: Texts, parts: Iterable[Part]) -> Iterator[str]:
    """Raises ValueError if there is none."""
    any_text, files = False, dict[Path, None]()
    for part in parts:
        files[part.path] = None
        for document in texts.documents(part):
            any_text = True
            yield document
    if not any_text:
        raise no_text(files)
