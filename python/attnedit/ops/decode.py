"""Attention of the newest tokens over a cache: for inference, so nothing is recorded."""

from attnedit import _core
from attnedit.compute import current_compute
from attnedit.tensor import Array, Tensor, empty


def mla_decode(q_latent: Tensor, q_rope: Tensor, cache: Tensor, lengths: Array, heads: int, scale: float) -> Tensor:
    """Absorbed multi-head latent attention (DeepSeek-V2): the cache is never expanded.

    q_latent [B, T, heads * R], q_rope [B, T, heads * P], cache [B, S, R + P] -> [B, T, heads * R]. A position of the
    cache is its latent, which is key and value at once, and behind it the rotated shared key; float32, bfloat16 or
    float16. lengths, int32 [B], counts the positions that are filled, the T queries' own included; 0 gives zeros.
    """
    o = empty(q_latent.shape)
    _core.mla_decode(q_latent.array, q_rope.array, cache.array, lengths, heads, scale, current_compute(), o.array)
    return o


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Array,
    heads: int,
    kv_heads: int,
    scale: float,
    gate: Tensor | None = None,
    activation: str = "sigmoid",
) -> Tensor:
    """What `attention` gives for the newest position of each sequence, over cached keys and values.

    q [B, 1, heads * K], k [B, S, kv_heads * K], v [B, S, kv_heads * Kv] -> [B, 1, heads * Kv]; the cache is float32,
    bfloat16 or float16. lengths, int32 [B], counts the slots that are filled; 0 gives zeros. A window of S positions is
    a ring: position p lies in slot p % S, and min(p + 1, S) slots are filled. gate as in `attention`.
    """
    o = empty((*q.shape[:2], heads * (v.shape[2] // kv_heads)))
    _core.decode_attention(
        q.array, k.array, v.array, lengths, None if gate is None else gate.array, heads, kv_heads, scale, activation,
        o.array,
    )  # fmt: skip
    return o
