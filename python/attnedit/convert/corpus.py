"""The recipe's text: documents -> training rows and held-out rows."""

from dataclasses import dataclass
from pathlib import Path

from attnedit.convert.folder import text_hash
from attnedit.convert.recipe import Recipe
from attnedit.data import Tokenizer, heldout_rows, pack, read_documents, split_heldout
from attnedit.models import DecoderConfig, load
from attnedit.tensor import Array


@dataclass(frozen=True)
class Corpus:
    train: Array  # int32 [R, sequence_length]
    heldout: list[Array]  # a document a row
    heldout_bytes: int  # of text that the held-out rows cover


@dataclass(frozen=True)
class Texts:
    training: list[str]
    heldout: list[str]

    @property
    def fingerprint(self) -> str:
        return text_hash([*self.training, "", *self.heldout])

    @property
    def warning(self) -> str | None:
        """What makes the held-out figures worth little; None where nothing does."""
        both = len(set(self.heldout) & set(self.training))
        return f"{both:,} of {len(self.heldout):,} held-out documents are trained on too" if both else None


def read_texts(recipe: Recipe) -> Texts:
    data = recipe.data
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
    return Texts(training, heldout)


def corpus(recipe: Recipe) -> Corpus:
    """The recipe's text as rows, for who takes the steps one by one."""
    config = load(recipe.teacher).config
    recipe = recipe.fitted(config.rope.max_position_embeddings)
    return read_corpus(read_texts(recipe), recipe.sequence_length, Tokenizer(recipe.teacher), config)


def read_corpus(texts: Texts, length: int, tokenizer: Tokenizer, config: DecoderConfig) -> Corpus:
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"[data] the tokenizer has {tokenizer.vocab_size} tokens, the teacher's vocabulary only {config.vocab_size}"
        )
    rows = pack(tokenizer.encode_documents(texts.training), length, tokenizer.document_separator).tokens
    kept_rows = heldout_rows(tokenizer.encode_documents(texts.heldout), length)
    covered = sum(len(tokenizer.decode(row).encode()) for row in kept_rows)
    return Corpus(rows, kept_rows, covered)
