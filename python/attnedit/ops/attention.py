"""Attention, and what multi-head latent attention does around its products."""

from collections.abc import Sequence

from attnedit import _core
from attnedit.autograd import grad_of, record
from attnedit.compute import current_compute
from attnedit.ops.arguments import wants
from attnedit.tensor import Array, Tensor, empty, full


@wants(
    q="B, T, heads * K", k="B, T, kv_heads * K", v="B, T, kv_heads * Kv", gate="B, T, heads or heads * Kv",
    document_starts="B, T",
)  # fmt: skip
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int = 0,
    gate: Tensor | None = None,
    activation: str = "sigmoid",
    document_starts: Array | None = None,
) -> Tensor:
    """Causal softmax attention; query head h reads key head h // (heads / kv_heads).

    q [B, T, heads * K], k [B, T, kv_heads * K], v [B, T, kv_heads * Kv] -> [B, T, heads * Kv]. With window W > 0 a
    query sees W keys, its own included. gate [B, T, heads] or [B, T, heads * Kv] multiplies the output by sigmoid or
    softplus of itself (arXiv 2505.06708). document_starts int32 [B, T], where several documents share a row: for each
    position the one at which its document begins; a query sees no key before it. What a query does not see has weight
    zero, which hides every number but NaN and infinities: in v those reach queries nearby too. Nothing of size T x T is
    held (arXiv 2205.14135).
    """
    batch, time, _ = q.shape
    width = v.shape[2] // kv_heads
    inputs, gates = [q.array, k.array, v.array], None if gate is None else gate.array
    o = empty((batch, time, heads * width)).array
    y = Tensor(o) if gate is None else empty(o.shape)
    lse, compute = empty((batch, heads, time)), current_compute()
    _core.attention_forward(
        *inputs, gates, document_starts, heads, kv_heads, scale, window, activation, compute,
        o, None if gate is None else y.array, lse.array,
    )  # fmt: skip

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        outputs = [empty(x.shape).array for x in inputs]
        dgates = None if gates is None else empty(gates.shape).array
        _core.attention_backward(
            grads[0], *inputs, gates, document_starts, heads, kv_heads, scale, window, activation, compute,
            o, lse.array, *outputs, dgates,
        )  # fmt: skip
        return outputs if gates is None else [*outputs, dgates]

    record((y,), (q, k, v) if gate is None else (q, k, v, gate), back)
    return y


@wants(kv_a="B, T, R + P", weight="R", cos="S, P / 2", sin="S, P / 2")
def mla_compress(
    kv_a: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Splits kv_a [B, T, R + P] into the normed latent [B, T, R] and the rotated shared key [B, T, P] (DeepSeek-V2)."""
    batch, time, width = kv_a.shape
    rank, x = weight.size, kv_a.array
    latent, rstd = empty((batch, time, rank)), empty((batch, time))
    k_rope = empty((batch, time, max(0, width - rank)))
    _core.mla_compress_forward(
        x, weight.array, eps, cos.array, sin.array, start, latent.array, rstd.array, k_rope.array
    )
    shapes = latent.shape, k_rope.shape

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dlatent, dk_rope = (full(s, 0.0).array if g is None else g for g, s in zip(grads, shapes, strict=True))
        dx = empty(x.shape).array
        dweight = grad_of(weight) if weight.requires_grad else None
        _core.mla_compress_backward(
            dlatent, dk_rope, x, weight.array, rstd.array, cos.array, sin.array, start, dx, dweight
        )
        return (dx, None)

    record((latent, k_rope), (kv_a, weight), back)
    return latent, k_rope


@wants(kv="B, T, heads * (Kn + Kv)", k_rope="B, T, P")
def mla_expand(kv: Tensor, k_rope: Tensor, heads: int, v_head_dim: int) -> tuple[Tensor, Tensor]:
    """Keys [kv's key part ; the shared rotary key] and values of every head.

    kv [B, T, heads * (Kn + Kv)], k_rope [B, T, P] -> k [B, T, heads * (Kn + P)], v [B, T, heads * Kv]
    """
    batch, time, width = kv.shape
    if not 0 <= v_head_dim <= width // heads:
        raise ValueError(
            f"[mla_expand] v_head_dim must be from 0 to {width // heads}, a head's part of kv, got {v_head_dim}"
        )
    nope = width // heads - v_head_dim
    k = empty((batch, time, heads * (nope + k_rope.shape[2])))
    v = empty((batch, time, heads * v_head_dim))
    _core.mla_expand_forward(kv.array, k_rope.array, heads, k.array, v.array)
    outputs, inputs = (k.shape, v.shape), (kv.shape, k_rope.shape)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dk, dv = (full(s, 0.0).array if g is None else g for g, s in zip(grads, outputs, strict=True))
        dkv, dk_rope = (empty(s).array for s in inputs)
        _core.mla_expand_backward(dk, dv, heads, dkv, dk_rope)
        return (dkv, dk_rope)

    record((k, v), (kv, k_rope), back)
    return k, v
