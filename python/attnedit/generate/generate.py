"""Prompts continued token by token: each is cached in one pass, then a token of every sequence at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Literal, ParamSpec

import numpy as np

from attnedit.checked import shown
from attnedit.data import Tokenizer
from attnedit.generate.defaults import GenerationConfig
from attnedit.generate.options import Options
from attnedit.generate.sampling import Sampling
from attnedit.generate.text import TextStream
from attnedit.models import Cache, Decoder, decode, prefill
from attnedit.tensor import Array

FinishReason = Literal["eos", "stop", "length"]
P = ParamSpec("P")


@dataclass(frozen=True)
class Piece:
    """A token of one sequence, and the text that became certain with it, which may be none."""

    sequence: int
    token: int
    text: str
    finish_reason: FinishReason | None  # why it was the last; None before


@dataclass(frozen=True)
class Generation:
    """What was added to one prompt."""

    tokens: Array  # int32, the ending token or the stop string's included
    text: str  # without them; empty where there was no tokenizer
    finish_reason: FinishReason


def stream(
    model: Decoder,
    prompts: Sequence[str | Array],
    tokenizer: Tokenizer | None = None,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    seed: int = 0,
    stop: Sequence[str | int] = (),
    cache_dtype: str = "float32",
) -> Iterator[Piece]:
    """`generate` as it goes: a Piece for every token of every sequence. Who stops early has what came so far."""
    if not isinstance(model, Decoder):
        raise TypeError(f"[generate] model must be a Decoder, as load gives it, got {shown(model)}")
    if not isinstance(tokenizer, Tokenizer | None):
        raise TypeError(f"[generate] tokenizer must be a data.Tokenizer, got {shown(tokenizer)}")
    options = Options.of(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, eos_token_id=eos_token_id,
        seed=seed, stop=stop, cache_dtype=cache_dtype,
    )  # fmt: skip
    defaults = GenerationConfig.of(model.config)
    sampling = defaults.sampling(options)
    ids = _tokens(model, prompts, tokenizer, options.max_new_tokens or 1)
    longest = max(map(len, ids))
    new = options.max_new_tokens
    if new is None:  # nobody asked for more than fits
        new = min(defaults.max_new_tokens, model.config.rope.max_position_embeddings - longest)
    if options.eos_token_id is None:
        ends = _end_tokens(model, tokenizer, defaults.eos_token_id)
    else:
        ends = _in_vocabulary(_listed(options.eos_token_id), model)
    stops, strings = _in_vocabulary(options.stop_tokens, model), options.stop_strings
    if strings and tokenizer is None:
        raise ValueError(f"[generate] the stop string {strings[0]!r} needs a tokenizer")
    cache = Cache(model.config, len(ids), longest + new, options.cache_dtype)
    sequences = [_Sequence(i, prompt, sampling, new, ends, stops, tokenizer, strings) for i, prompt in enumerate(ids)]
    return _pieces(model, ids, cache, sequences)


def _whole(pieces_of: Callable[P, Iterator[Piece]]) -> Callable[P, list[Generation]]:
    """The same arguments, the results at once."""

    @wraps(pieces_of, assigned=("__module__",))
    def generate(*args: P.args, **options: P.kwargs) -> list[Generation]:
        """Continues prompts, each a text or int32 tokens [T] (a chat: `tokenizer.apply_chat_template(messages)`).

        A sequence ends at an end token, at a string or token of stop, or after max_new_tokens. What is not given is as
        the folder's generation_config.json says, as in transformers; where it says nothing, at most 128 new tokens are
        chosen greedily, and a sequence ends at an end token of config.json or the tokenizer. temperature 0 is greedy;
        Sampling says what the other options mean. cache_dtype: float32, bfloat16 or float16.
        Raises ValueError and TypeError for what does not fit the model, MemoryError for a cache that does not fit.
        """
        pieces: dict[int, list[Piece]] = {}
        for piece in pieces_of(*args, **options):
            pieces.setdefault(piece.sequence, []).append(piece)
        return [
            Generation(
                np.array([piece.token for piece in each], np.int32),
                "".join(piece.text for piece in each),
                each[-1].finish_reason or "length",
            )
            for _, each in sorted(pieces.items())
        ]

    return generate


generate = _whole(stream)


def _pieces(model: Decoder, prompts: list[Array], cache: Cache, sequences: list["_Sequence"]) -> Iterator[Piece]:
    for i, (sequence, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        yield sequence.take(prefill(model, cache, i, prompt))
    while any(sequence.active for sequence in sequences):
        active = np.array([sequence.active for sequence in sequences])
        logits = decode(model, cache, np.array([sequence.token for sequence in sequences], np.int32), active)
        for sequence in (each for each in sequences if each.active):
            yield sequence.take(logits[sequence.index])


class _Sequence:
    """What is particular to a sequence while it grows."""

    def __init__(
        self, index: int, prompt: Array, sampling: Sampling, room: int, ends: set[int], stops: set[int],
        tokenizer: Tokenizer | None, strings: Sequence[str],
    ) -> None:  # fmt: skip
        self.index, self.sampling, self.room, self.ends, self.stops = index, sampling, room, ends, stops
        self.generator = sampling.generator(index)
        self.text = None if tokenizer is None else TextStream(tokenizer, prompt, strings)
        self.active, self.token = True, 0

    def take(self, logits: Array) -> Piece:
        self.token = self.sampling.choose(logits, self.generator)
        self.room -= 1
        reason: FinishReason | None = "length" if self.room == 0 else None
        if self.token in self.stops:
            reason = "stop"
        elif self.token in self.ends:
            reason = "eos"
        text = ""
        if self.text is not None:
            if reason in (None, "length"):
                text = self.text.push(self.token)
            if self.text.stopped:
                reason = "stop"
            elif reason is not None:
                text += self.text.finish()
                reason = "stop" if self.text.stopped else reason
        self.active = reason is None
        return Piece(self.index, self.token, text, reason)


def _tokens(model: Decoder, prompts: Sequence[str | Array], tokenizer: Tokenizer | None, new: int) -> list[Array]:
    """Every prompt as int32 [T], checked."""
    if not isinstance(prompts, Sequence | np.ndarray) or isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"[generate] prompts must be a list of at least one prompt, got {shown(prompts)}")
    longest, size, checked = model.config.rope.max_position_embeddings, model.config.vocab_size, []
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            if not prompt:
                raise ValueError(f"[generate] prompt {i} must be some text, got ''")
            if tokenizer is None:
                raise ValueError(f"[generate] prompt {i} is text, so a tokenizer must be given, got none")
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise ValueError(f"[generate] prompt {i} must be Unicode text, got {shown(prompt)}") from None
            prompt = tokenizer.encode_documents([prompt])[0]
        try:
            ids = np.asarray(prompt)
        except ValueError:  # lists of other lengths in it
            ids = np.asarray(None)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(f"[generate] prompt {i} must be text or whole numbers [T], got {shown(prompt)}")
        if len(ids) < 1:
            raise ValueError(f"[generate] prompt {i} must have at least one token, got none")
        if len(ids) + new > longest:
            raise ValueError(
                f"[generate] prompt {i} and new tokens must fit max_position_embeddings {longest}, "
                f"got {len(ids)} + {new}"
            )
        if not 0 <= ids.min() <= ids.max() < size:
            raise ValueError(
                f"[generate] prompt {i} must have tokens from 0 to {size - 1}, got {ids.min()} to {ids.max()}"
            )
        checked.append(ids.astype(np.int32))
    return checked


def _end_tokens(model: Decoder, tokenizer: Tokenizer | None, stated: Sequence[int]) -> set[int]:
    """Chat models end a turn with the tokenizer's eos_token, base models a text with the one that the folder states."""
    ends = set(stated) or _listed(model.config.eos_token_id)
    return ends | ({tokenizer.eos_id} if tokenizer is not None and tokenizer.eos_id is not None else set())


def _listed(tokens: int | Sequence[int] | None) -> set[int]:
    return set() if tokens is None else {tokens} if isinstance(tokens, int) else set(tokens)


def _in_vocabulary(tokens: set[int], model: Decoder) -> set[int]:
    size = model.config.vocab_size
    if tokens and max(tokens) >= size:
        raise ValueError(f"[generate] a stop token must be from 0 to {size - 1}, got {max(tokens)}")
    return tokens
