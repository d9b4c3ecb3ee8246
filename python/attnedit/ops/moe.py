"""A mixture of experts: which experts a token goes to, and what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from attnedit import _core
from attnedit.autograd import is_recording, record
from attnedit.compute import current_compute
from attnedit.ops.arguments import wants
from attnedit.tensor import Array, Tensor, empty


@dataclass(frozen=True)
class Routes:
    """weights [N, k] of the chosen experts. Slot t k + j is token t's j-th choice; sorted by expert, slots are rows.

    chosen int32 [N, k]; offsets int32 [E + 1]: rows [offsets[e], offsets[e + 1]) are expert e's; slots int32 [N k],
    the slot of a row; rows int32 [N k], the row of a slot.
    """

    weights: Tensor
    chosen: Array
    offsets: Array
    slots: Array
    rows: Array


@wants(logits="..., E")
def moe_route(logits: Tensor, k: int, normalize: bool) -> Routes:
    """The k experts of greatest softmax(logits), with that as their weights, or divided by their sum.

    logits [..., E]. A token that has a NaN among them gets NaN for its weights. Qwen3-MoE's router (arXiv 2505.09388).
    """
    experts, tokens, z = logits.shape[-1], prod(logits.shape[:-1]), logits.array
    if not 1 <= k <= experts:
        raise ValueError(f"[moe_route] k must be from 1 to {experts}, the number of experts, got {k}")
    weights = empty((tokens, k))
    chosen, offsets, slots, rows = (
        _core.empty(shape, np.dtype(np.int32)) for shape in ((tokens, k), (experts + 1,), (tokens * k,), (tokens * k,))
    )
    _core.moe_route_forward(z, normalize, weights.array, chosen, offsets, slots, rows)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        dz = empty(z.shape).array
        _core.moe_route_backward(grads[0], z, chosen, normalize, dz)
        return (dz,)

    record((weights,), (logits,), back)
    return Routes(weights, chosen, offsets, slots, rows)


@wants(x="..., D", gate="F, D", up="F, D", down="D, F")
def experts(x: Tensor, routes: Routes, gate: Sequence[Tensor], up: Sequence[Tensor], down: Sequence[Tensor]) -> Tensor:
    """y[t] = sum_j weights[t, j] down_e(silu(gate_e(x[t])) * up_e(x[t])),  e = chosen[t, j].

    x [..., D]; gate and up: E of [F, D], down: E of [D, F], any storage type. They must be frozen: there is no
    gradient for them. For the way back only the gates' and ups' outputs are kept, 2 k F numbers a token.
    """
    for name, matrices in (("gate", gate), ("up", up), ("down", down)):
        if len(matrices) != len(routes.offsets) - 1:
            raise ValueError(f"[experts] {name} must be of {len(routes.offsets) - 1} experts, got {len(matrices)}")
        if is_recording() and (e := next((e for e, w in enumerate(matrices) if w.requires_grad), None)) is not None:
            raise ValueError(
                f"[experts] {name} must be frozen, for nothing computes its gradient; {name}[{e}] requires one"
            )
    if x.size == 0:
        return empty(x.shape)
    gates, ups, downs = ([w.array for w in weights] for weights in (gate, up, down))
    weights, count, width = routes.weights.array, routes.slots.size, gate[0].shape[0]
    compute, shape, trains = current_compute(), x.shape, x.requires_grad

    def each(rows: Array, matrices: list[Array]) -> Array:
        y = empty((count, matrices[0].shape[0])).array
        _core.grouped_gemm_forward(rows, routes.offsets, matrices, y, compute)
        return y

    def gathered(values: Array) -> Array:
        rows = empty((count, values.shape[-1])).array
        _core.moe_gather(values, routes.slots, rows)
        return rows

    def activated() -> Array:
        h = empty((count, width)).array
        _core.swiglu_forward(opened, raised, h)
        return h

    rows = gathered(x.array)
    opened, raised = each(rows, gates), each(rows, ups)
    del rows  # back to the pool, for what comes next
    y = empty(x.shape)
    _core.moe_combine(each(activated(), downs), routes.rows, weights, y.array)

    def back(grads: list[Array | None]) -> Sequence[Array | None]:
        assert grads[0] is not None
        h = activated()
        dh, dopened, draised = (empty(h.shape).array for _ in range(3))
        _core.grouped_gemm_input_backward(gathered(grads[0]), routes.offsets, downs, False, dh, compute)
        dweights = empty(weights.shape).array
        _core.moe_weigh_backward(h, weights, routes.slots, dh, dweights)
        if not trains:
            return (None, dweights)
        _core.swiglu_backward(dh, opened, raised, dopened, draised)
        drows, dx = empty((count, shape[-1])).array, empty(shape).array
        _core.grouped_gemm_input_backward(dopened, routes.offsets, gates, False, drows, compute)
        _core.grouped_gemm_input_backward(draised, routes.offsets, ups, True, drows, compute)
        _core.moe_combine(drows, routes.rows, None, dx)
        return (dx, dweights)

    record((y,), (x, routes.weights), back)
    return y
