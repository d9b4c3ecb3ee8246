"""Whether a recipe's text is there and is enough, without reading all of it."""

import math
from dataclasses import dataclass

import numpy as np

from attnedit.convert.cost import evaluated_rows
from attnedit.convert.plan import Plan, in_bytes
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import all_parts
from attnedit.convert.token_cache import SHARD_CHARACTERS, token_type
from attnedit.data import Part, Tokenizer, beginning, size_of
from attnedit.data.files import format_of, is_compressed
from attnedit.tensor import Array

SAMPLED_CHARACTERS = 1 << 18
SHARD_MEMORY = 13  # bytes a character, of its text, tokens and what the tokenizers library keeps of them


@dataclass(frozen=True)
class TextSize:
    """What a recipe's text holds, about."""

    told: dict[str, str]  # for people
    evaluated_rows: float  # of sequence_length, all evaluations together


@dataclass(frozen=True)
class Sample:
    """Of text that was not read as a whole. Tokens count what ends a document; `first` counts each one's first so
    many."""

    characters: int
    tokens: int
    documents: int
    first: float  # mean of a document


def text_size(recipe: Recipe, planned: Plan, tokenizer: Tokenizer) -> TextSize:
    """What there is to train on, beside what the phases read, and to evaluate. Raises ValueError where files are
    missing or hold no text, and where they cannot fill one step."""
    data, length = recipe.data, planned.layerwise_steps.sequence_length
    training = all_parts(data.train, data.separator)
    files = len({part.path for part in training})
    found = f"{files:,} file{'s' if files > 1 else ''}"
    sample = sampled(training, tokenizer, length)
    first, second = planned.layerwise_steps, planned.modelwise_steps
    step = max(first.rows, second.rows) * length
    if sample.tokens < step:
        raise ValueError(
            f"[data] a step needs {step:,} tokens of text, {found} in data.train hold about {sample.tokens:,}"
        )
    read = [steps.steps * steps.rows * length for steps in (first, second)]
    ahead = min(sample.characters, SHARD_CHARACTERS)  # of a shard, which is made as a whole
    made = min(sample.tokens, max(read) + int(sample.tokens * ahead / sample.characters))
    kept = token_type(tokenizer.vocab_size).itemsize * made
    held = sample if data.heldout is None else sampled(all_parts(data.heldout, data.separator), tokenizer, length)
    documents = math.ceil(held.documents * (data.heldout_share if data.heldout is None else 1))
    documents = min(documents, data.most_evaluated or documents)
    rows = evaluated_rows(documents * held.first / length)
    return TextSize(
        {
            "text": f"{found}, about {sample.tokens:,} tokens by a sample; phase 1 reads {read[0]:,}, "
            f"phase 2 reads {read[1]:,}",
            "tokens": f"beside the above about {in_bytes(kept)} of disk, "
            f"and {in_bytes(SHARD_MEMORY * ahead)} of memory while they are made",
            "evaluations": f"3, each of about {documents:,} documents, {int(documents * held.first):,} tokens: "
            f"{planned.work.evaluation_flops(rows) / 1e12:,.3g} TFLOP together",
        },
        rows,
    )


def sampled(text: list[Part], tokenizer: Tokenizer, length: int) -> Sample:
    """From parts all over the text, each kind of file by its own measure of size; `first` is of `length` tokens."""
    kinds: dict[tuple[str, bool, bool], list[Part]] = {}
    for part in text:
        whole = format_of(part.path) == "text" and part.separator is None  # a part is a document
        kinds.setdefault((format_of(part.path), is_compressed(part.path), whole), []).append(part)
    all_characters = tokens = documents = first = 0.0
    for (_, _, whole), same in kinds.items():
        found: list[Array] = []
        size = characters = 0
        for i in np.random.default_rng(0).permutation(len(same)):
            some, taken = beginning(same[i], SAMPLED_CHARACTERS)
            found += tokenizer.encode_documents(some)
            size += taken
            characters += sum(map(len, some))
            if characters >= SAMPLED_CHARACTERS:
                break
        share = sum(map(size_of, same)) / max(size, 1)
        count = len(same) if whole else share * len(found)
        all_characters += share * characters
        tokens += share * (sum(map(len, found)) + len(found))
        documents += count
        first += count * sum(min(len(one), length) for one in found) / max(len(found), 1)
    if not tokens:
        raise ValueError(f"[data] there must be some text in {text[0].path}, got none")
    return Sample(int(all_characters), int(tokens), math.ceil(documents), first / documents)
