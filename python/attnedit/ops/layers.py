"""What a decoder is made of besides attention."""

from collections.abc import Sequence

from attnedit import _core
from attnedit.autograd import grad_of, record, total
from attnedit.compute import current_compute
from attnedit.ops.arguments import wants
from attnedit.tensor import Array, Tensor, empty


@wants(x="..., I", weight="O, I", bias="O")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x weight^T + bias.   x [..., I], weight [O, I], bias [O] -> y [..., O]"""
    y, compute = empty((*x.shape[:-1], weight.shape[0])), current_compute()
    _core.gemm_forward(x.array, weight.array, None if bias is None else bias.array, y.array, compute)
    shape = x.shape if x.requires_grad else None
    x_array = x.array if weight.requires_grad else None  # a frozen layer keeps nothing
    biased = bias if bias is not None and bias.requires_grad else None

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dy = grads[0]
        dx = None
        if shape is not None:
            dx = empty(shape).array
            _core.gemm_input_backward(dy, weight.array, dx, compute)
        dbias = None if biased is None else grad_of(biased)
        if x_array is not None:
            _core.gemm_weight_backward(dy, x_array, grad_of(weight), dbias, compute)
        elif dbias is not None:
            _core.gemm_bias_backward(dy, dbias)
        return (dx, None) if bias is None else (dx, None, None)

    record((y,), (x, weight) if bias is None else (x, weight, bias), back)
    return y


@wants(tokens="..., T", table="V, D")
def embedding(tokens: Array, table: Tensor) -> Tensor:
    """Rows of table.   tokens int32 [B, T], table [V, D] -> [B, T, D]"""
    y = empty((*tokens.shape, table.shape[1]))
    _core.embedding_forward(tokens, table.array, y.array)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        _core.embedding_backward(grads[0], tokens, grad_of(table))
        return (None,)

    record((y,), (table,), back)
    return y


@wants(x="..., n * len(weight)", weight="D")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x * weight / sqrt(mean(x^2) + eps) over len(weight) numbers: a row or head by head.   [..., n * len(weight)]"""
    x_array, y, rstd = x.array, empty(x.shape), empty((x.size // max(1, weight.size),))
    _core.rms_norm_forward(x_array, weight.array, eps, y.array, rstd.array)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dx = empty(x_array.shape).array
        dweight = grad_of(weight) if weight.requires_grad else None
        _core.rms_norm_backward(grads[0], x_array, weight.array, rstd.array, dx, dweight)
        return (dx, None)

    record((y,), (x, weight), back)
    return y


@wants(x="B, T, heads * K", cos="S, P / 2", sin="S, P / 2")
def rope(
    x: Tensor, cos: Tensor, sin: Tensor, heads: int, start: int = 0, offset: int = 0, interleaved: bool = False
) -> Tensor:
    """Rotates the dims [offset, offset + P) of every head by position; the rest is copied.

    x [B, T, heads * K]; cos, sin [S, P / 2], row start + t for position t. Half split as Hugging Face's default, or
    interleaved pairs as DeepSeek. Su et al. 2021 (arXiv 2104.09864).
    """
    shape, y = x.shape, empty(x.shape)
    _core.rope_forward(x.array, cos.array, sin.array, start, heads, offset, interleaved, y.array)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dx = empty(shape).array
        _core.rope_backward(grads[0], cos.array, sin.array, start, heads, offset, interleaved, dx)
        return (dx,)

    record((y,), (x,), back)
    return y


@wants(gate="..., F", up="..., F")
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element. Shazeer 2020 (arXiv 2002.05202)."""
    g, u, y = gate.array, up.array, empty(gate.shape)
    _core.swiglu_forward(g, u, y.array)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dg, du = empty(g.shape).array, empty(u.shape).array
        _core.swiglu_backward(grads[0], g, u, dg, du)
        return (dg, du)

    record((y,), (gate, up), back)
    return y


@wants()
def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b of equal shape: the residual stream; or of two losses."""
    if a.shape != b.shape:
        raise ValueError(f"[add] b must have shape {a.shape}, got {b.shape}")
    array = total(a.array, b.array)
    assert array is not None
    y = Tensor(array)
    record((y,), (a, b), lambda grads: (grads[0], grads[0]))
    return y
