"""Grouped-query attention: the sources' own (llama, qwen2, qwen3)."""

from dataclasses import dataclass

from attnedit import ops
from attnedit.checked import Epsilon, Even, Length, Size
from attnedit.nn.cache import LayerCache
from attnedit.nn.linear import Linear
from attnedit.nn.module import Module
from attnedit.nn.rms_norm import RMSNorm
from attnedit.nn.rope import Rope
from attnedit.tensor import Array, Tensor


@dataclass(frozen=True)
class GQAConfig:
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Even
    qk_norm: bool = False  # an RMSNorm over every head of queries and keys, before the rotation (Qwen3)
    qkv_bias: bool = False  # Qwen2
    o_bias: bool = False
    norm_eps: Epsilon = 1e-6
    sliding_window: Length | None = None  # None: every earlier key

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide num_attention_heads {self.num_attention_heads}, "
                f"got {self.num_key_value_heads}"
            )

    @property
    def cached_widths(self) -> tuple[int, ...]:
        """Numbers that a cached token takes: in the array of keys, in that of values."""
        return (self.num_key_value_heads * self.head_dim,) * 2

    def cached_tokens(self, length: int) -> int:
        """How many of `length` tokens the cache holds."""
        return length if self.sliding_window is None else min(length, self.sliding_window)

    def cached_numbers(self, length: int) -> int:
        """Numbers in the cache after `length` tokens."""
        return self.cached_tokens(length) * sum(self.cached_widths)


class GQA(Module):
    def __init__(self, hidden_size: int, config: GQAConfig, rope: Rope) -> None:
        c = config
        self.config = config
        self.rope = rope
        self.q_proj = Linear(hidden_size, c.num_attention_heads * c.head_dim, c.qkv_bias)
        self.k_proj = Linear(hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias)
        self.v_proj = Linear(hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias)
        self.o_proj = Linear(c.num_attention_heads * c.head_dim, hidden_size, c.o_bias)
        self.q_norm = RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None

    def attend(
        self,
        u: Tensor,
        gate: Tensor | None = None,
        activation: str = "sigmoid",
        cache: LayerCache | None = None,
        document_starts: Array | None = None,
    ) -> Tensor:
        """The heads' outputs side by side, before o_proj: [B, T, num_attention_heads * head_dim]."""
        c = self.config
        cos, sin = self.rope.tables(u.shape[1]) if cache is None else cache.tables(self.rope)
        q, k, v = self.q_proj(u), self.k_proj(u), self.v_proj(u)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = ops.rope(q, cos, sin, c.num_attention_heads)
        k = ops.rope(k, cos, sin, c.num_key_value_heads)
        window = c.sliding_window or 0
        heads, scale = (c.num_attention_heads, c.num_key_value_heads), c.head_dim**-0.5
        if cache is not None:
            cache.store(k)
            cache.store(v, array=1)
            if cache.decoding:
                keys, values = cache.arrays
                return ops.decode_attention(q, keys, values, cache.filled, *heads, scale, gate, activation)
        return ops.attention(q, k, v, *heads, scale, window, gate, activation, document_starts)

    def __call__(self, u: Tensor, cache: LayerCache | None = None, document_starts: Array | None = None) -> Tensor:
        return self.o_proj(self.attend(u, cache=cache, document_starts=document_starts))
