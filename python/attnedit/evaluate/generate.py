"""Text generation by recomputing the whole context for every token."""

import math

import numpy as np

from attnedit import ops
from attnedit.autograd import no_grad
from attnedit.models import Decoder
from attnedit.tensor import Array, tensor


def generate(model: Decoder, prompt: Array, tokens: int, temperature: float = 0.0, seed: int = 0) -> Array:
    """prompt int32 [T] and up to `tokens` more, until the end token. temperature 0 is greedy."""
    if len(prompt) < 1:
        raise ValueError("[generate] the prompt must have at least one token, got none")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"[generate] temperature must be at least 0 and finite, got {temperature}")
    if tokens < 1 or seed < 0:
        raise ValueError(f"[generate] tokens must be at least 1 and seed at least 0, got {tokens} and {seed}")
    longest = model.config.rope.max_position_embeddings
    if len(prompt) + tokens > longest:
        raise ValueError(
            f"[generate] prompt and new tokens must fit max_position_embeddings {longest}, got {len(prompt)} + {tokens}"
        )
    ends = model.config.eos_token_id
    stop = set(ends) if isinstance(ends, list) else {ends}
    rng = np.random.default_rng(seed)
    ids = list(map(int, prompt))
    with no_grad():
        for _ in range(tokens):
            hidden = model(np.array([ids], np.int32)).numpy()[0, -1:]
            logits = ops.linear(tensor(hidden), model.head).numpy()[0]
            if temperature == 0:
                token = int(logits.argmax())
            else:
                scaled = (logits - logits.max()) / temperature
                p = np.exp(scaled, dtype=np.float64)
                token = int(rng.choice(len(p), p=p / p.sum()))
            ids.append(token)
            if token in stop:
                break
    return np.array(ids, np.int32)
