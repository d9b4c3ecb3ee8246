"""Tokens on the disk: the shards of a source, made one after the other and read again by whoever continues.

A shard holds its tokens, where its documents begin, and where the next one goes on reading; each is a file that is
whole or not there, and one that was damaged is made again. The folder's name says what the shards are made from, so
none is ever taken for another text's.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnedit.checkpoint import read_arrays, read_sealed, write_arrays, write_sealed
from attnedit.convert.texts import Texts
from attnedit.data import Part, Shard, Tokenizer, joined
from attnedit.tensor import Array

SHARD_CHARACTERS = 16 << 20
COMPLETE = "complete.json"


def token_type(vocab_size: int) -> np.dtype[Any]:
    """How a token lies on the disk."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


class Stopped(Exception):
    """The run ends while a shard is being made."""


class TokenCache:
    """Shards of what `parts` of the texts hold, in their order, made at first need.

    trained: whether a document is trained on. most: how many such documents at most; None: all.
    """

    def __init__(
        self,
        folder: Path,
        texts: Texts,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        trained: Callable[[str], bool],
        most: int | None,
    ) -> None:
        self._folder, self._texts, self._parts, self._tokenizer = folder, texts, parts, tokenizer
        self._trained, self._most = trained, most
        # Part, document of that part and documents trained on so far: where the next shard begins.
        self._at = (0, 0, 0)
        self._documents: Iterator[str] | None = None
        self.stopped = False
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, number: int) -> Shard | None:
        """Shard 0, 1, ..., in order; None behind the last."""
        path = self._folder / f"{number:05d}.safetensors"
        kept = self._read_shard(path)
        if kept is None:
            if self._count() == number:
                return None
            arrays = self._make()
            if arrays is None:
                write_sealed(self._folder / COMPLETE, {"shards": number})
                return None
            write_arrays(path, arrays)
            kept = read_arrays(path)
        else:
            self._documents = None  # whoever makes the next shard begins behind this one
        part, document, trained = map(int, kept["next"])
        self._at = part, document, trained
        return Shard(kept["tokens"], kept["begins"])

    def _count(self) -> int | None:
        """How many shards there are, once that is known."""
        complete = self._folder / COMPLETE
        try:
            return int(read_sealed(complete)["shards"]) if complete.exists() else None
        except ValueError as error:
            warnings.warn(f"{error}; it is made again", stacklevel=2)
            return None

    def _read_shard(self, path: Path) -> Mapping[str, Array] | None:
        """What lies there, if it is what was written."""
        if not path.exists():
            return None
        try:
            kept = read_arrays(path)
        except ValueError as error:
            warnings.warn(f"{error}; it is made again", stacklevel=2)
            return None
        if kept.keys() != {"tokens", "begins", "next"}:
            raise ValueError(f"[convert] {path} is no shard of tokens; remove it to make it again")
        return kept

    def _make(self) -> dict[str, Array] | None:
        before = self._at
        self._documents = self._documents or self._read()
        try:
            documents = list(self._tokenizer.encode_stream(self._take(self._documents)))
            if documents:  # a shard may end within a part
                self._texts.require_unchanged(self._parts[self._at[0]].path)
        except BaseException:
            self._documents, self._at = None, before  # what is broken now is not the end of the text
            raise
        if not documents:
            return None
        tokens, begins = joined(documents, self._tokenizer.document_separator)
        narrow = token_type(self._tokenizer.vocab_size)
        return {"tokens": tokens.astype(narrow), "begins": begins, "next": np.array(self._at, np.int64)}

    def _take(self, documents: Iterator[str]) -> Iterator[str]:
        """As many as make a shard."""
        characters = 0
        while characters < SHARD_CHARACTERS:
            if self.stopped:
                raise Stopped
            document = next(documents, None)
            if document is None:
                return
            characters += len(document)
            yield document

    def _read(self) -> Iterator[str]:
        """The documents to train on from self._at on, which follows."""
        first, skipped, trained = self._at
        for number in range(first, len(self._parts)):
            for i, document in enumerate(self._texts.documents(self._parts[number])):
                if number == first and i < skipped:
                    continue
                if trained == self._most:
                    return
                if self._trained(document):
                    trained += 1
                    self._at = number, i + 1, trained
                    yield document
