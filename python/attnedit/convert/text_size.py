"""Whether a recipe's text is there and is enough, without reading all of it."""

from itertools import chain

import numpy as np

from attnedit.convert.corpus import pools
from attnedit.convert.plan import Plan, in_bytes
from attnedit.convert.recipe import Recipe
from attnedit.convert.token_cache import token_type
from attnedit.data import Part, Tokenizer
from attnedit.data.files import format_of, is_compressed

SAMPLED_BYTES = 1 << 18


def text_line(recipe: Recipe, planned: Plan) -> str:
    """What there is to train on, beside what the phases read. Raises ValueError where files are missing or hold no
    text, and where they cannot fill one step."""
    data = recipe.data
    training = list(chain.from_iterable(pool.parts for pool in pools(data.train, data.separator)))
    if data.heldout is not None:
        pools(data.heldout, data.separator)
    files = len({part.path for part in training})
    found = f"{files:,} file{'s' if files > 1 else ''}"
    if any(is_compressed(part.path) or format_of(part.path) == "parquet" for part in training):
        return f"{found}, some compressed: how many tokens shows when they are read"
    size = sum(part.end - part.begin for part in training)
    tokenizer = Tokenizer(recipe.teacher)
    tokens = int(size * _tokens_per_byte(training, tokenizer))
    first, second = planned.layerwise_steps, planned.modelwise_steps
    step = max(first.rows, second.rows) * first.sequence_length
    if tokens < step:
        raise ValueError(f"[data] a step needs {step:,} tokens of text, {found} in data.train hold about {tokens:,}")
    read = [steps.steps * steps.rows * steps.sequence_length for steps in (first, second)]
    kept = in_bytes(token_type(tokenizer.vocab_size).itemsize * min(tokens, max(read)))
    return (
        f"{found}, about {tokens:,} tokens; phase 1 reads {read[0]:,}, phase 2 reads {read[1]:,}; "
        f"about {kept} of them in the run folder"
    )


def _tokens_per_byte(training: list[Part], tokenizer: Tokenizer) -> float:
    """Of parts from all over the text, each read whole."""
    tokens = size = 0
    for i in np.random.default_rng(0).permutation(len(training)):
        part = training[i]
        documents = list(part.documents())
        tokens += sum(map(len, tokenizer.encode_documents(documents))) + len(documents)
        size += part.end - part.begin
        if size >= SAMPLED_BYTES:
            break
    if tokens == 0:
        raise ValueError(f"[data] there must be some text in {training[0].path}, got none")
    return tokens / max(size, 1)
