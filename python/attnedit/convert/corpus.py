"""The recipe's text: documents -> training rows and held-out rows."""

from dataclasses import dataclass
from pathlib import Path

from attnedit.convert.folder import text_hash
from attnedit.convert.recipe import Recipe
from attnedit.data import Tokenizer, heldout_rows, pack, read_documents, split_heldout
from attnedit.models import DecoderConfig
from attnedit.tensor import Array


@dataclass(frozen=True)
class Corpus:
    train: Array  # int32 [R, sequence_length]
    heldout: list[Array]  # a document a row
    heldout_bytes: int  # of text that the held-out rows cover
    fingerprint: str


def read_corpus(recipe: Recipe, tokenizer: Tokenizer, config: DecoderConfig) -> Corpus:
    data, length = recipe.data, recipe.sequence_length
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"[data] the tokenizer has {tokenizer.vocab_size} tokens, the teacher's vocabulary only {config.vocab_size}"
        )
    documents = read_documents(data.train, data.separator, Path())
    if data.heldout is not None:
        training, heldout = documents, read_documents(data.heldout, data.separator, Path())
    else:
        training, heldout = split_heldout(documents, data.heldout_share, recipe.seed)
        if not heldout or not training:
            raise ValueError(
                f"[data] {len(documents)} documents are too few to hold out a share of {data.heldout_share}; "
                "name held-out files under data.heldout, or set data.separator"
            )
    training = training[: data.train_documents]
    if data.heldout_documents is not None:
        heldout = heldout[-data.heldout_documents :]
    rows = pack(tokenizer.encode_documents(training), length, tokenizer.document_separator).tokens
    kept_rows = heldout_rows(tokenizer.encode_documents(heldout), length)
    covered = sum(len(tokenizer.decode(row).encode()) for row in kept_rows)
    return Corpus(rows, kept_rows, covered, text_hash([*training, "", *heldout]))
