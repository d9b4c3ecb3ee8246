"""Attention, and what multi-head latent attention does around its products."""

from collections.abc import Sequence

from attnedit import _core
from attnedit.autograd import grad_of, record
from attnedit.compute import current_compute
from attnedit.tensor import Array, Tensor, empty, full


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
    position the one at which its document begins; a query sees no key before it. Nothing of size T x T is held (arXiv
    2205.14135).
    """
    batch, time, _ = q.shape
    width = v.shape[2] // kv_heads
    o = empty((batch, time, heads * width))
    y = o if gate is None else empty(o.shape)
    lse, compute = empty((batch, heads, time)), current_compute()
    _core.attention_forward(
        q.array, k.array, v.array, None if gate is None else gate.array, document_starts, heads, kv_heads, scale,
        window, activation, compute, o.array, None if gate is None else y.array, lse.array,
    )  # fmt: skip

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dq, dk, dv = (_core.empty(x.shape, x.dtype) for x in (q, k, v))
        dgate = None if gate is None else _core.empty(gate.shape, gate.dtype)
        _core.attention_backward(
            grads[0], q.array, k.array, v.array, None if gate is None else gate.array, document_starts, heads, kv_heads,
            scale, window, activation, compute, o_array, lse.array, dq, dk, dv, dgate,
        )  # fmt: skip
        return (dq, dk, dv) if gate is None else (dq, dk, dv, dgate)

    o_array = o.array  # the array, not the tensor: the tensor would hold its own node
    record((y,), (q, k, v) if gate is None else (q, k, v, gate), back)
    return y


def mla_compress(
    kv_a: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Splits kv_a [B, T, R + P] into the normed latent [B, T, R] and the rotated shared key [B, T, P] (DeepSeek-V2)."""
    batch, time, width = kv_a.shape
    rank = weight.size
    latent, rstd = empty((batch, time, rank)), empty((batch, time))
    k_rope = empty((batch, time, width - rank))
    _core.mla_compress_forward(
        kv_a.array, weight.array, eps, cos.array, sin.array, start, latent.array, rstd.array, k_rope.array
    )
    shapes = latent.shape, k_rope.shape

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dlatent, dk_rope = (full(s, 0.0).array if g is None else g for g, s in zip(grads, shapes, strict=True))
        dkv_a: Array = _core.empty(kv_a.shape, kv_a.dtype)
        dweight = grad_of(weight) if weight.requires_grad else None
        _core.mla_compress_backward(
            dlatent, dk_rope, kv_a.array, weight.array, rstd.array, cos.array, sin.array, start, dkv_a, dweight
        )
        return (dkv_a, None)

    record((latent, k_rope), (kv_a, weight), back)
    return latent, k_rope


def mla_expand(kv: Tensor, k_rope: Tensor, heads: int, v_head_dim: int) -> tuple[Tensor, Tensor]:
    """Keys [kv's key part ; the shared rotary key] and values of every head.

    kv [B, T, heads * (Kn + Kv)], k_rope [B, T, P] -> k [B, T, heads * (Kn + P)], v [B, T, heads * Kv]
    """
    batch, time, width = kv.shape
    nope = width // heads - v_head_dim
    k = empty((batch, time, heads * (nope + k_rope.shape[2])))
    v = empty((batch, time, heads * v_head_dim))
    _core.mla_expand_forward(kv.array, k_rope.array, heads, k.array, v.array)
    shapes = k.shape, v.shape

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dk, dv = (full(s, 0.0).array if g is None else g for g, s in zip(grads, shapes, strict=True))
        dkv: Array = _core.empty(kv.shape, kv.dtype)
        dk_rope: Array = _core.empty(k_rope.shape, k_rope.dtype)
        _core.mla_expand_backward(dk, dv, heads, dkv, dk_rope)
        return (dkv, dk_rope)

    record((k, v), (kv, k_rope), back)
    return k, v
