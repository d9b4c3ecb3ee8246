"""How fast a model decodes, and over how large a cache, at several contexts."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from attnedit import runtime
from attnedit.models import Cache, Decoder, decode, load, prefill
from attnedit.tensor import Array

CONTEXTS = tuple(512 << i for i in range(7))  # 512 to 32,768
PREFILLED = 512  # tokens that are really computed; a longer cache repeats their entries, which cost the same to read
STEPS = 8  # of which the median counts


@dataclass(frozen=True)
class DecodeSpeed:
    """One sequence whose `context` tokens are cached in float32, the newest included; greedy."""

    context: int
    tokens_per_second: float  # by the median of the steps
    slowest: float  # the same by the longest and the shortest of them
    fastest: float
    cache_bytes: int  # of the arrays


def contexts_of(*models: Decoder) -> list[int]:
    """Those of CONTEXTS that all models can reach, or their longest alone."""
    longest = min(model.config.rope.max_position_embeddings for model in models)
    return [context for context in CONTEXTS if context <= longest] or [longest]


def compare_decoding(student: str | Path, teacher: str | Path, python: str = sys.executable) -> dict[str, Any]:
    """Both folders by us and by transformers, at every context; what was measured and how is said beside it.

    python: the interpreter that has torch and transformers; what they cannot do is said, and is no error.
    """
    folders = {"teacher": teacher, "student": student}
    models = {name: load(folder) for name, folder in folders.items()}
    contexts = contexts_of(*models.values())
    return {
        "decode": {name: [asdict(decode_speed(model, n)) for n in contexts] for name, model in models.items()},
        "transformers": {name: transformers_speed(folder, contexts, python) for name, folder in folders.items()},
        "how": f"one sequence, float32, median, slowest and fastest of {STEPS} tokens; the cache holds {PREFILLED} "
        "computed tokens, repeated up to the context",
    }


def decode_speed(model: Decoder, context: int) -> DecodeSpeed:
    """Decodes the token at position context - 1 several times."""
    if context < 2:
        raise ValueError(f"[decode_speed] context must be at least 2, got {context}")
    prompt = np.random.default_rng(0).integers(0, model.config.vocab_size, min(context - 1, PREFILLED), np.int32)
    cache = cached(model, prompt, context)
    seconds = []
    for step in range(STEPS + 1):
        cache.lengths[0] = context - 1
        begun = time.perf_counter()
        logits = decode(model, cache, np.array([step % model.config.vocab_size], np.int32), np.ones(1, bool))
        int(logits[0].argmax())
        seconds.append(time.perf_counter() - begun)
    kept = seconds[1:]  # the first one touches new memory
    return DecodeSpeed(context, 1 / median(kept), 1 / max(kept), 1 / min(kept), cache.nbytes)


def cached(model: Decoder, prompt: Array, context: int) -> Cache:
    """A cache of context - 1 tokens, with room for one more: the prompt is computed, the others repeat it."""
    cache = Cache(model.config, 1, context)
    prefill(model, cache, 0, prompt)
    runtime.synchronize()
    for layer in cache.layers:
        for array in layer.arrays:
            for begin in range(len(prompt), layer.slots, len(prompt)):
                part = array.array[0, begin : begin + len(prompt)]
                part[...] = array.array[0, : len(part)]
    cache.lengths[0] = context - 1
    return cache


def transformers_speed(folder: str | Path, contexts: Sequence[int], python: str) -> dict[str, Any]:
    """{"speeds": [DecodeSpeed as a dictionary]} of transformers' generate on the same folder, or {"absent": why}."""
    script = Path(__file__).with_name("transformers_peer.py")
    arguments = [str(folder), str(runtime.get_num_threads()), str(PREFILLED), str(STEPS), *map(str, contexts)]
    try:
        done = subprocess.run([python, str(script), *arguments], capture_output=True, text=True)
    except OSError as error:
        return {"absent": f"{python}: {error.strerror}"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"absent": f"{python}: {said[-1] if said else f'it ended with {done.returncode}'}"}
    return {"speeds": [json.loads(line) for line in done.stdout.splitlines()]}
