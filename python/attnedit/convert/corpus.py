"""The recipe's text -> training rows, tokenised as they are needed, and held-out rows."""

import atexit
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from attnedit.checkpoint import Checkpoint, read_arrays, write_arrays
from attnedit.checkpoint.atomic import remove
from attnedit.convert.recipe import Recipe
from attnedit.convert.token_cache import SHARD_CHARACTERS, TokenCache
from attnedit.data import (
    Part,
    Source,
    StreamedRows,
    Tokenizer,
    digest,
    fingerprint,
    heldout_rows,
    is_heldout,
    joined,
    no_text,
    parts,
    shuffled,
)
from attnedit.models.load import read_config
from attnedit.tensor import Array


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


@dataclass(frozen=True)
class Corpus:
    train: StreamedRows
    heldout: list[Array]  # int32, a document a row
    heldout_bytes: int  # of text that the held-out rows cover
    warning: str | None  # what makes the held-out figures worth little


def find_texts(recipe: Recipe) -> Texts:
    """Reads the files once, for their fingerprint."""
    data = recipe.data
    training = pools(data.train, data.separator)
    heldout = None
    if data.heldout is not None:
        heldout = [part for pool in pools(data.heldout, data.separator) for part in pool.parts]
    every = [*training, *([] if heldout is None else [Pool(heldout, 0)])]
    read: dict[Path, str] = {}
    said = []
    for pool in every:
        files = dict.fromkeys((part.path, part.field, part.separator) for part in pool.parts)
        for path, _, _ in files:
            read[path] = read.get(path) or fingerprint([path])
        said.append([pool.weight, [(read[path], *how) for path, *how in files]])
    return Texts(training, heldout, hashlib.sha256(json.dumps(said).encode()).hexdigest())


def corpus(recipe: Recipe) -> Corpus:
    """The recipe's text as rows, for who takes the steps one by one; their tokens lie in a folder until Python ends."""
    config = read_config(Checkpoint.open(recipe.teacher))
    recipe = recipe.fitted(config.rope.max_position_embeddings)
    open_until_exit = ExitStack()
    atexit.register(open_until_exit.close)
    folder = open_until_exit.enter_context(TemporaryDirectory(prefix="attnedit-tokens-"))
    texts, tokenizer = find_texts(recipe), Tokenizer(recipe.teacher)
    return open_until_exit.enter_context(open_corpus(recipe, texts, tokenizer, config.vocab_size, Path(folder)))


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


@contextmanager
def open_corpus(recipe: Recipe, texts: Texts, tokenizer: Tokenizer, vocab_size: int, folder: Path) -> Iterator[Corpus]:
    """The text's documents are looked at once, to hold some out; then tokens are made as the rows are asked for, and
    kept in folder."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"[data] the tokenizer has {tokenizer.vocab_size} tokens, the teacher's vocabulary only {vocab_size}"
        )
    data, seed = recipe.data, recipe.seed
    made_from = [
        texts.fingerprint, tokenizer.fingerprint(), seed, data.heldout_share, data.train_documents,
        data.heldout_documents, SHARD_CHARACTERS,
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    ours = folder / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    for other in folder.iterdir():
        if other != ours:
            remove(other)
    ours.mkdir(exist_ok=True)
    documents, both, limits = _heldout(ours / "heldout.safetensors", recipe, texts, tokenizer)

    def trained(document: str) -> bool:
        return texts.heldout is not None or not is_heldout(digest(document, seed), data.heldout_share)

    caches = []
    for i, pool in enumerate(texts.training):
        limit = None if data.train_documents is None else limits[i]
        reading = pool.parts if limit is not None else _mixed(pool.parts, seed)
        caches.append(TokenCache(ours / f"source_{i}", reading, tokenizer, trained, limit))
    weighted = [(cache, pool.weight) for cache, pool in zip(caches, texts.training, strict=True)]
    rows = StreamedRows(weighted, recipe.sequence_length, seed)
    kept = heldout_rows(documents, recipe.sequence_length)
    covered = sum(len(tokenizer.decode(row).encode()) for row in kept)
    warning = f"{both:,} of {len(documents):,} held-out documents are trained on too" if both else None
    try:
        yield Corpus(rows, kept, covered, warning)
    finally:
        for cache in caches:
            cache.stopped = True
        rows.close()


def _mixed(parts: list[Part], seed: int) -> list[Part]:
    """In a random order, so that a shard holds something from everywhere."""
    return [parts[i] for i in shuffled(len(parts), seed)]


def _heldout(path: Path, recipe: Recipe, texts: Texts, tokenizer: Tokenizer) -> tuple[list[Array], int, list[int]]:
    """The held-out documents' tokens; how many of them are trained on; how many documents of each pool are."""
    if not path.exists():
        heldout, both, limits = _look(recipe, texts)
        tokens, begins = joined(list(tokenizer.encode_stream(heldout)), None)
        facts = np.array([both, *limits], np.int64)
        write_arrays(path, {"tokens": tokens, "begins": begins, "facts": facts})
    kept = read_arrays(path)
    if kept.keys() != {"tokens", "begins", "facts"}:
        raise ValueError(f"[convert] {path} is not of this version; remove it to make it again")
    both, *limits = map(int, kept["facts"])
    return np.split(kept["tokens"], kept["begins"][1:]), both, limits


def _look(recipe: Recipe, texts: Texts) -> tuple[list[str], int, list[int]]:
    """One pass over the documents: those held out; how many of them are trained on; documents to train on, by pool."""
    data = recipe.data
    heldout: deque[str] = deque(maxlen=data.heldout_documents)
    if texts.heldout is not None:
        heldout.extend(_documents(texts.heldout))
    known = {digest(document, recipe.seed) for document in heldout}
    found: set[bytes] = set()
    left, limits = data.train_documents, []
    for pool in texts.training:
        count = 0
        for document in _documents(pool.parts):
            mark = digest(document, recipe.seed)
            if texts.heldout is None and is_heldout(mark, data.heldout_share):
                heldout.append(document)
            elif left is None or count < left:
                count += 1
                found |= known & {mark}
        limits.append(count)
        left = None if left is None else left - count
    if not heldout or not sum(limits):
        raise ValueError(
            f"[data] {len(heldout) + sum(limits)} documents are too few to hold out a share of {data.heldout_share}; "
            "name held-out files under data.heldout, or set data.separator"
        )
    return list(heldout), len(found), limits


def _documents(parts: Iterable[Part]) -> Iterator[str]:
    """Raises ValueError if there is none."""
    any_text, files = False, dict[Path, None]()
    for part in parts:
        files[part.path] = None
        for document in part.documents():
            any_text = True
            yield document
    if not any_text:
        raise no_text(files)
