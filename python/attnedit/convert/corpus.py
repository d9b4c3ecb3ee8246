"""The recipe's text -> training rows, tokenised as they are needed, and held-out rows."""

import atexit
import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from attnedit.checkpoint import Checkpoint, write_sealed
from attnedit.checkpoint.atomic import remove
from attnedit.convert.heldout import heldout_documents
from attnedit.convert.progress import OnCount
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import Texts, find_texts
from attnedit.convert.token_cache import SHARD_CHARACTERS, TokenCache
from attnedit.data import Part, StreamedRows, Tokenizer, digest, heldout_rows, is_heldout, shuffled
from attnedit.models.load import read_config
from attnedit.tensor import Array

FILES = "files.json"  # the text's hashes, in the folder of the tokens


@dataclass(frozen=True)
class Corpus:
    train: StreamedRows
    heldout: list[Array]  # int32, a document a row, mapped
    tokenizer: Tokenizer
    warning: str | None  # what makes the held-out figures worth little

    @cached_property
    def heldout_bytes(self) -> int:
        """Of text that the held-out rows cover."""
        return sum(len(self.tokenizer.decode(row).encode()) for row in self.heldout)


def corpus(recipe: Recipe) -> Corpus:
    """The recipe's text as rows, for who takes the steps one by one; their tokens lie in a folder until Python ends."""
    config = read_config(Checkpoint.open(recipe.teacher))
    recipe = recipe.fitted(config.rope.max_position_embeddings)
    open_until_exit = ExitStack()
    atexit.register(open_until_exit.close)
    folder = open_until_exit.enter_context(TemporaryDirectory(prefix="attnedit-tokens-"))
    texts, tokenizer = find_texts(recipe), Tokenizer(recipe.teacher)
    return open_until_exit.enter_context(open_corpus(recipe, texts, tokenizer, config.vocab_size, Path(folder)))


@contextmanager
def open_corpus(
    recipe: Recipe, texts: Texts, tokenizer: Tokenizer, vocab_size: int, folder: Path,
    on_part: OnCount = lambda done, of: None,
) -> Iterator[Corpus]:  # fmt: skip
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
        if other not in (ours, folder / FILES):
            remove(other)
    write_sealed(folder / FILES, texts.hashes)
    ours.mkdir(exist_ok=True)
    documents, both, limits = heldout_documents(ours / "heldout.safetensors", recipe, texts, tokenizer, on_part)

    def trained(document: str) -> bool:
        return texts.heldout is not None or not is_heldout(digest(document, seed), data.heldout_share)

    caches = []
    for i, pool in enumerate(texts.training):
        limit = None if data.train_documents is None else limits[i]
        reading = pool.parts if limit is not None else _mixed(pool.parts, seed)
        caches.append(TokenCache(ours / f"source_{i}", texts, reading, tokenizer, trained, limit))
    weighted = [(cache, pool.weight) for cache, pool in zip(caches, texts.training, strict=True)]
    rows = StreamedRows(weighted, recipe.sequence_length, seed)
    kept = heldout_rows(documents, recipe.sequence_length)
    warning = f"{both:,} of {len(documents):,} held-out documents are trained on too" if both else None
    try:
        yield Corpus(rows, kept, tokenizer, warning)
    finally:
        for cache in caches:
            cache.stopped = True
        rows.close()


def _mixed(parts: list[Part], seed: int) -> list[Part]:
    """In a random order, so that a shard holds something from everywhere."""
    return [parts[i] for i in shuffled(len(parts), seed)]
