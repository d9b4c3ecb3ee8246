"""Rotary frequencies and their tables: default, linear, llama3 and yarn, as Hugging Face computes them."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnedit.tensor import Array, Tensor

KNOWN_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeParameters:
    """The rope block of config.json. `scaling` holds the keys that its rope_type adds."""

    rope_theta: float = 10000.0
    rope_type: str = "default"
    max_position_embeddings: int = 2048
    scaling: dict[str, Any] = field(default_factory=dict)

    def frequencies(self, dim: int) -> tuple[Array, float]:
        """inv_freq float64 [dim / 2] and the factor on cos and sin."""
        inv_freq: Array = self.rope_theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        if self.rope_type == "linear":
            return inv_freq / self.scaling["factor"], 1.0
        if self.rope_type == "llama3":
            return self._llama3(inv_freq), 1.0
        if self.rope_type == "yarn":
            return self._yarn(inv_freq, dim)
        return inv_freq, 1.0

    def _llama3(self, inv_freq: Array) -> Array:
        """Long wavelengths are slowed by `factor`, short ones kept, those between blended."""
        factor, low, high = (self.scaling[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
        turns = self.scaling["original_max_position_embeddings"] * inv_freq / (2 * math.pi)
        keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
        slowed: Array = (1 - keep) * inv_freq / factor + keep * inv_freq
        return slowed

    def _yarn(self, inv_freq: Array, dim: int) -> tuple[Array, float]:
        """Peng et al. 2023 (arXiv 2309.00071): blended by the number of turns within the original length."""
        factor = float(self.scaling["factor"])
        original = self.scaling.get("original_max_position_embeddings") or self.max_position_embeddings

        def dim_of_turns(turns: float) -> float:
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(self.rope_theta))

        low = dim_of_turns(self.scaling.get("beta_fast") or 32)
        high = dim_of_turns(self.scaling.get("beta_slow") or 1)
        if self.scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
        blended = inv_freq / factor * ramp + inv_freq * (1 - ramp)
        attention_factor = self.scaling.get("attention_factor")
        if attention_factor is None:
            mscale, all_dim = self.scaling.get("mscale"), self.scaling.get("mscale_all_dim")
            attention_factor = yarn_mscale(factor)
            if mscale and all_dim:
                attention_factor = yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim)
        return blended, float(attention_factor)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


class Rope:
    """cos and sin tables [S, dim / 2] that grow with the longest sequence seen."""

    def __init__(self, parameters: RopeParameters, dim: int) -> None:
        self.parameters = parameters
        self.dim = dim
        self._tables: tuple[Tensor, Tensor] | None = None

    def tables(self, length: int) -> tuple[Tensor, Tensor]:
        if self._tables is None or self._tables[0].shape[0] < length:
            inv_freq, factor = self.parameters.frequencies(self.dim)
            angles = np.outer(np.arange(1 << (length - 1).bit_length(), dtype=np.float64), inv_freq)
            cos, sin = (np.ascontiguousarray(f(angles) * factor, dtype=np.float32) for f in (np.cos, np.sin))
            self._tables = Tensor(cos), Tensor(sin)
        return self._tables
