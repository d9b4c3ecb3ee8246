"""Gated sliding-window attention: the source's attention with a window, and a gate before o_proj."""

from dataclasses import dataclass
from typing import Literal

from attnedit.nn.cache import LayerCache
from attnedit.nn.gqa import GQA, GQAConfig
from attnedit.nn.linear import Linear
from attnedit.nn.rope import Rope
from attnedit.tensor import Array, Tensor


@dataclass(frozen=True)
class GateSWAConfig(GQAConfig):
    gate: Literal["sigmoid", "softplus"] = "sigmoid"
    gate_per: Literal["head", "element"] = "head"


class GateSWA(GQA):
    """y = o_proj(activation(g_proj(u)) * attention(u)); the gate reads what the query reads (arXiv 2505.06708)."""

    config: GateSWAConfig

    def __init__(self, hidden_size: int, config: GateSWAConfig, rope: Rope) -> None:
        super().__init__(hidden_size, config, rope)
        per_head = 1 if config.gate_per == "head" else config.head_dim
        self.g_proj = Linear(hidden_size, config.num_attention_heads * per_head)

    def __call__(self, u: Tensor, cache: LayerCache | None = None, document_starts: Array | None = None) -> Tensor:
        return self.o_proj(self.attend(u, self.g_proj(u), self.config.gate, cache, document_starts))
