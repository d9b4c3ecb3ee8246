"""Whether a recipe's text is there and is enough, without reading all of it."""

from itertools import chain

import numpy as np

from attnedit.convert.plan import Plan, in_bytes
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import pools
from attnedit.convert.token_cache import token_type
from attnedit.data import Part, Tokenizer, beginning, size_of
from attnedit.data.files import format_of, is_compressed

SAMPLED_CHARACTERS = 1 << 18


def text_line(recipe: Recipe, planned: Plan) -> str:
    """What there is to train on, beside what the phases read. Raises ValueError where files are missing or hold no
    text, and where they cannot fill one step."""
    data = recipe.data
    training = list(chain.from_iterable(pool.parts for pool in pools(data.train, data.separator)))
    if data.heldout is not None:
        pools(data.heldout, data.separator)
    files = len({part.path for part in training})
    found = f"{files:,} file{'s' if files > 1 else ''}"
    tokenizer = Tokenizer(recipe.teacher)
    tokens = estimated_tokens(training, tokenizer)
    first, second = planned.layerwise_steps, planned.modelwise_steps
    step = max(first.rows, second.rows) * first.sequence_length
    if tokens < step:
        raise ValueError(f"[data] a step needs {step:,} tokens of text, {found} in data.train hold about {tokens:,}")
    read = [steps.steps * steps.rows * steps.sequence_length for steps in (first, second)]
    kept = in_bytes(token_type(tokenizer.vocab_size).itemsize * min(tokens, max(read)))
    return (
        f"{found}, about {tokens:,} tokens by a sample; phase 1 reads {read[0]:,}, phase 2 reads {read[1]:,}; "
        f"about {kept} of them in the run folder"
    )


def estimated_tokens(training: list[Part], tokenizer: Tokenizer) -> int:
    """From parts all over the text, plain, compressed and parquet ones by their own measure of size."""
    kinds: dict[tuple[bool, bool], list[Part]] = {}
    for part in training:
        kinds.setdefault((is_compressed(part.path), format_of(part.path) == "parquet"), []).append(part)
    found = 0.0
    for same in kinds.values():
        tokens = size = characters = 0
        for i in np.random.default_rng(0).permutation(len(same)):
            documents, taken = beginning(same[i], SAMPLED_CHARACTERS)
            tokens += sum(map(len, tokenizer.encode_documents(documents))) + len(documents)
            size += taken
            characters += sum(map(len, documents))
            if characters >= SAMPLED_CHARACTERS:
                break
        found += tokens / max(size, 1) * sum(map(size_of, same))
    if found == 0:
        raise ValueError(f"[data] there must be some text in {training[0].path}, got none")
    return int(found)
