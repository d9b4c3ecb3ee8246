"""The next token from its logits."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from attnedit.tensor import Array

Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=0)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Sampling:
    """transformers' words, and its order: temperature, then top_k, then top_p. Who makes it has checked them."""

    temperature: Temperature = 0.0  # 0: greedy, the first of equals
    top_k: TopK = 0  # only the k most likely tokens; 0: all
    top_p: TopP = 1.0  # only the fewest most likely tokens that have this probability together
    seed: Seed = 0  # a sequence draws by the seed and its own index, so its neighbours do not matter

    def generator(self, sequence: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, sequence))

    def choose(self, logits: Array, generator: np.random.Generator) -> int:
        """logits float32 [V] -> a token."""
        likeliest = int(logits.argmax())
        if not math.isfinite(logits[likeliest]):
            raise ValueError(f"[generate] logits must be finite, got {logits[likeliest]} for token {likeliest}")
        if self.temperature == 0:
            return likeliest
        tokens, p = self.distribution(logits)
        drawn = np.searchsorted(np.cumsum(p), generator.random() * p.sum(), side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])

    def distribution(self, logits: Array) -> tuple[Array, Array]:
        """The tokens that may be drawn, and their probabilities before those of the others are shared out."""
        tokens = np.arange(len(logits))
        if 0 < self.top_k < len(logits):
            tokens = np.sort(np.argpartition(-logits, self.top_k - 1)[: self.top_k])
        p = np.exp((logits[tokens] - logits.max()) / max(self.temperature, 1e-30), dtype=np.float64)
        p /= p.sum()
        if self.top_p < 1:
            # Tokens below this have less than 1 - top_p together, so the sought ones are among the others: few to sort.
            tokens, p = tokens[p >= (1 - self.top_p) / len(p)], p[p >= (1 - self.top_p) / len(p)]
            order = np.argsort(-p, kind="stable")
            kept = order[: 1 + int(np.searchsorted(np.cumsum(p[order]), self.top_p))]
            tokens, p = tokens[kept], p[kept]
        return tokens, p
