"""Long-context tasks, made of any text: a fact among many in a long text, and copying what was read before."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from attnedit.data import Tokenizer, read_documents
from attnedit.evaluate.loglikelihood import Request, encode_pairs
from attnedit.evaluate.task_files import Question
from attnedit.tensor import Array

ITEMS = 32  # of each length, unless fewer are asked for
FACTS = 4
THINGS = ("bridge", "garden", "harbour", "island", "library", "market", "mountain", "museum", "palace", "station",
          "tower", "village")  # fmt: skip
DIGITS = tuple(f" {digit}" for digit in range(10))


def text_tokens(path: Path, tokenizer: Tokenizer) -> Array:
    """A file's text, int32, without what documents begin with."""
    (encoded,) = tokenizer.encode_documents(["\n\n".join(read_documents([path], None, Path()))])
    return encoded[len(_prefix(tokenizer)) :]


def needle(text: Array, tokenizer: Tokenizer, length: int, items: int, seed: int) -> list[Question]:
    """Four facts at random depths of a text of at most `length` tokens, and the question for one of them.

    As RULER's multi-key needles (arXiv 2404.06654), but with one digit for an answer, so that all ten choices are read
    off one pass: chance is 0.1. text goes round: behind its end comes its beginning.
    """
    # In most vocabularies they all take as many tokens.
    longest = max(DIGITS, key=lambda digit: len(tokenizer.encode_documents(["is" + digit])[0]))
    return [_needle(text, tokenizer, length, (seed, length, i), longest) for i in range(items)]


def _needle(text: Array, tokenizer: Tokenizer, length: int, seed: tuple[int, int, int], longest: str) -> Question:
    rng = np.random.default_rng(seed)
    things = [THINGS[i] for i in rng.choice(len(THINGS), FACTS, replace=False)]
    digits = [int(digit) for digit in rng.choice(len(DIGITS), FACTS, replace=False)]
    asked, depths, begin = int(rng.integers(FACTS)), np.sort(rng.random(FACTS)), int(rng.integers(len(text)))
    facts = [f"The magic number of the {thing} is {digit}." for thing, digit in zip(things, digits, strict=True)]
    where = f"needle_{length} item {seed[-1] + 1}"

    def question(room: int) -> Question:
        """With `room` tokens of text around the facts."""
        hay = np.take(text, np.arange(begin, begin + room), mode="wrap")
        pieces = [tokenizer.decode(piece).strip("\ufffd") for piece in np.split(hay, (depths * room).astype(int))]
        told = [line for pair in zip(pieces, [*facts, ""], strict=True) for line in pair]
        end = f"What is the magic number of the {things[asked]}? The magic number of the {things[asked]} is"
        return Question(where, "\n".join([*told, end]), DIGITS, digits[asked])

    def tokens(room: int) -> int:
        """That the model reads."""
        (request,) = encode_pairs(tokenizer, [(question(room).context, longest)])
        return len(request.inputs)

    return question(_fitting(tokens, length, where))


def _fitting(tokens: Callable[[int], int], length: int, where: str) -> int:
    """The room that leaves at most `length` tokens in all. Encoding text again seldom gives the tokens it came from."""
    if tokens(0) > length:
        raise ValueError(f"[tasks] {where} needs {tokens(0)} tokens for its facts alone, got a context of {length}")
    room = length - tokens(0)
    while (over := tokens(room) - length) > 0:
        room = max(0, room - over)
    return room


def repeat_copy(text: Array, tokenizer: Tokenizer, length: int, items: int, seed: int) -> list[Request]:
    """Tokens of the text in random order, twice, `length` tokens in all: the second time all but the first are scored.

    Only what was read predicts them, so this is copying alone.
    """
    prefix = _prefix(tokenizer)
    half = (length - len(prefix)) // 2
    if half < 2:
        raise ValueError(f"[tasks] repeat_copy needs a context of at least {4 + len(prefix)} tokens, got {length}")
    made = []
    for i in range(items):
        once = np.random.default_rng((seed, length, i)).choice(text, half)
        made.append(Request(np.concatenate([prefix, once, once[:1]]), once[1:]))
    return made


def _prefix(tokenizer: Tokenizer) -> Array:
    return tokenizer.encode_documents([""])[0]
