"""Attention of the newest tokens over a cache: for inference, so nothing is recorded.

Where an activation is [B, T, width] below, any other leading dimensions of the same memory do as well: decoding puts
the B newest tokens into one row, [1, B, width], for all other layers to treat as neighbours.
"""

from attnedit import _core
from attnedit.compute import current_compute
from attnedit.ops.arguments import wants
from attnedit.tensor import Array, Tensor, empty


@wants(cache="B, S, C", first="B", x="..., W")
def cache_store(x: Tensor, cache: Array, first: Array, offset: int = 0) -> None:
    """Puts x [B, T, W] into the columns from offset on of cache [B, S, C], rounded to the cache's type.

    first, int32 [B], is the position of a sequence's first row; position p lies in slot p % S, and of more than S rows
    the last S are kept. A sequence whose first is negative is left alone.
    """
    _core.cache_store(_by_sequence(x, first), first, offset, cache)


@wants(q="B, T, heads * (Kn + P)", kv_b="heads * (Kn + Kv), R")
def mla_absorb_query(q: Tensor, kv_b: Tensor, heads: int, qk_rope_head_dim: int) -> tuple[Tensor, Tensor]:
    """q [B, T, heads * (Kn + P)] -> q_latent [B, T, heads * R], the part without rotation times W_uk, and q_rope.

    kv_b [heads * (Kn + Kv), R]: per head W_uk, then W_uv. For few rows: the weight is read once for each.
    """
    if qk_rope_head_dim < 0:
        raise ValueError(f"[mla_absorb_query] qk_rope_head_dim must be 0 or more, got {qk_rope_head_dim}")
    q_latent = empty((*q.shape[:2], heads * kv_b.shape[1]))
    q_rope = empty((*q.shape[:2], heads * qk_rope_head_dim))
    _core.mla_absorb_query(q.array, kv_b.array, heads, q_latent.array, q_rope.array)
    return q_latent, q_rope


@wants(o_latent="B, T, heads * R", kv_b="heads * (Kn + Kv), R")
def mla_absorb_value(o_latent: Tensor, kv_b: Tensor, heads: int, v_head_dim: int) -> Tensor:
    """o_latent [B, T, heads * R] times W_uv^T -> [B, T, heads * Kv]; kv_b as in mla_absorb_query."""
    if v_head_dim < 0:
        raise ValueError(f"[mla_absorb_value] v_head_dim must be 0 or more, got {v_head_dim}")
    o = empty((*o_latent.shape[:2], heads * v_head_dim))
    _core.mla_absorb_value(o_latent.array, kv_b.array, heads, o.array)
    return o


@wants(q_latent="..., heads * R", q_rope="..., heads * P", cache="B, S, R + P", lengths="B")
def mla_decode(q_latent: Tensor, q_rope: Tensor, cache: Tensor, lengths: Array, heads: int, scale: float) -> Tensor:
    """Absorbed multi-head latent attention (DeepSeek-V2): the cache is never expanded.

    q_latent [B, T, heads * R], q_rope [B, T, heads * P], cache [B, S, R + P] -> [B, T, heads * R]. A position of the
    cache is its latent, which is key and value at once, and behind it the rotated shared key; float32, bfloat16 or
    float16. lengths, int32 [B], counts the positions that are filled, the T queries' own included; 0 gives zeros.
    """
    o = empty(q_latent.shape)
    q, rope, y = (_by_sequence(x, lengths) for x in (q_latent, q_rope, o))
    _core.mla_decode(q, rope, cache.array, lengths, heads, scale, current_compute(), y)
    return o


@wants(
    q="..., heads * K", k="B, S, kv_heads * K", v="B, S, kv_heads * Kv", lengths="B", gate="..., heads or heads * Kv"
)
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
        _by_sequence(q, lengths), k.array, v.array, lengths, None if gate is None else _by_sequence(gate, lengths),
        heads, kv_heads, scale, activation, _by_sequence(o, lengths),
    )  # fmt: skip
    return o


def _by_sequence(x: Tensor, each: Array) -> Array:
    """x as [B, T, width]; each has a number for every sequence."""
    sequences, rows = len(each), x.size // max(1, x.shape[-1])
    if rows % max(1, sequences) or (rows and not sequences):
        raise ValueError(f"[decode] {sequences} sequences must share the rows of an activation, got {rows}")
    return x.array.reshape(sequences, rows // sequences if sequences else 1, x.shape[-1])
