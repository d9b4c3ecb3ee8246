"""The key-value cache of a model: a prompt fills it, then every step reads it and adds a token to each sequence."""

from typing import Any

import ml_dtypes
import numpy as np

from attnedit import ops, runtime
from attnedit.autograd import no_grad
from attnedit.models.decoder import Decoder, DecoderConfig
from attnedit.nn import LayerCache, Positions
from attnedit.tensor import Array, tensor

CACHE_DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class Cache:
    """Room for `sequences` sequences of at most `length` tokens: DecoderConfig.kv_numbers(length) numbers for each.

    Raises MemoryError where the memory that is free does not hold it.
    """

    def __init__(self, config: DecoderConfig, sequences: int, length: int, dtype: str = "float32") -> None:
        if dtype not in list(CACHE_DTYPES):
            raise ValueError(f"[cache] dtype must be one of {', '.join(CACHE_DTYPES)}, got {dtype!r}")
        stored = np.dtype(CACHE_DTYPES[dtype])
        needed, free = sequences * config.kv_numbers(length) * stored.itemsize, runtime.mem_get_info()[0]
        if needed > free:
            raise MemoryError(
                f"[cache] the cache of {sequences} x {length:,} tokens in {dtype} must fit the memory that is free, "
                f"{free / 2**30:,.1f} GiB, got {needed / 2**30:,.1f} GiB"
            )
        self.lengths = np.zeros(sequences, np.int32)  # tokens cached
        self.length = length
        self.positions = Positions(sequences, length)
        self.layers = [
            LayerCache(self.positions, layer.cached_tokens(length), layer.cached_widths, stored)
            for layer in config.attention
        ]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)


def prefill(model: Decoder, cache: Cache, sequence: int, prompt: Array) -> Array:
    """Caches a prompt, int32 [T]. Returns the logits behind its last token, float32 [V]."""
    if not 1 <= len(prompt) <= cache.length:
        raise ValueError(
            f"[prefill] prompt must have 1 to {cache.length} tokens, as the cache holds, got {len(prompt)}"
        )
    cache.positions.prompt(sequence, len(prompt))
    with no_grad():
        hidden = model(prompt[None], caches=cache.layers).numpy()[0, -1:]
        logits: Array = ops.linear(tensor(hidden), model.head).numpy()[0]
    cache.lengths[sequence] = len(prompt)
    return logits


def decode(model: Decoder, cache: Cache, tokens: Array, active: Array) -> Array:
    """Adds a token to every sequence, int32 [B]. Returns the logits behind it, float32 [B, V].

    active, bool [B]: the others have ended, and nothing of them is read or written.
    """
    if (cache.lengths[active] >= cache.length).any():
        raise ValueError(f"[decode] the cache holds {cache.length} tokens, which a sequence has already")
    cache.positions.newest(np.where(active, cache.lengths, -1).astype(np.int32))
    with no_grad():
        logits: Array = ops.linear(model(tokens[None], caches=cache.layers), model.head).numpy()[0]
    cache.lengths += active
    return logits
