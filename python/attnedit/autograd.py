"""A small tape. An operation records how its inputs' gradients follow from its outputs'; `backward` runs the tape.

Gradients of activations flow through the tape; kernels add the gradients of parameters straight into `grad_of(weight)`.
"""

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from attnedit import _core
from attnedit.compute import compute, current_compute
from attnedit.tensor import Array, Tensor, full

# Gradients of an operation's outputs (None where nothing uses one) -> gradients of its inputs (None where not needed).
# What it needs for that it keeps as arrays: whatever else the operation read or wrote goes back to the pool.
Backward = Callable[[list[Array | None]], Sequence[Array | None]]

_order = itertools.count()
_state = threading.local()


class Node:
    """One recorded operation. Of its inputs it knows where their gradients go, not their values."""

    __slots__ = ("backward", "grads", "inputs", "order", "outputs")

    def __init__(self, inputs: tuple[Tensor, ...], outputs: int, backward: Backward) -> None:
        self.inputs: tuple[Place, ...] = tuple(map(_place, inputs))
        self.outputs = outputs
        self.backward = backward
        self.order = next(_order)
        self.grads: list[Array | None] = [None] * outputs


# Where a tensor's gradient goes: a leaf keeps it, an operation's output has it by its number, a constant has none.
Place: TypeAlias = Tensor | tuple[Node, int] | None


def _place(x: Tensor) -> Place:
    if not x.requires_grad:
        return None
    return x if x.node is None else (x.node, x.index)


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside are not recorded."""
    before = is_recording()
    _state.recording = False
    try:
        yield
    finally:
        _state.recording = before


def is_recording() -> bool:
    return getattr(_state, "recording", True)


def record(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], backward: Backward) -> None:
    """Puts an operation on the tape if any of its inputs needs a gradient."""
    if not is_recording() or not any(x.requires_grad for x in inputs):
        return
    node = Node(inputs, len(outputs), backward)
    for i, y in enumerate(outputs):
        y.requires_grad, y.node, y.index = True, node, i


def grad_of(parameter: Tensor) -> Array:
    """The buffer that a parameter's gradient is added to, made of zeros at first use."""
    if parameter.grad is None:
        parameter.grad = full(parameter.shape, 0.0).array
    return parameter.grad


def total(a: Array | None, b: Array) -> Array:
    """a + b in new memory, since either may still be another operation's."""
    if a is None:
        return b
    y: Array = _core.empty(a.shape, a.dtype)
    _core.add(a, b, y)
    return y


def backward(outputs: Sequence[Tensor], grads: Sequence[Array | None] | None = None) -> None:
    """Adds to the leaves' gradients. Without grads the outputs are losses, whose gradient is 1 by definition."""
    queue: list[tuple[int, Node]] = []
    waiting: set[int] = set()

    def give(place: Place, grad: Array | None) -> None:
        if isinstance(place, Tensor):
            if grad is not None:
                place.grad = total(place.grad, grad)
        elif place is not None:
            node, index = place
            if grad is not None:
                node.grads[index] = total(node.grads[index], grad)
            if node.order not in waiting:
                waiting.add(node.order)
                heapq.heappush(queue, (-node.order, node))

    for i, y in enumerate(outputs):
        given = grads[i] if grads is not None else None
        # As a tensor's, numpy's memory outlives the kernels that read it.
        give(_place(y), None if given is None else Tensor(given).array)
    while queue:
        _, node = heapq.heappop(queue)
        received, node.grads = node.grads, [None] * node.outputs
        gradients = node.backward(received)
        for place, grad in zip(node.inputs, gradients, strict=True):
            give(place, grad)
        node.inputs, node.backward = (), _spent  # what it kept for this pass is free from here on


def _spent(_: list[Array | None]) -> Sequence[Array | None]:
    raise RuntimeError("[backward] this part of the tape has been used already; run the forward pass again")


def recompute(function: Callable[..., Tensor], *inputs: Tensor, behind: Callable[[], None] = lambda: None) -> Tensor:
    """function(*inputs), keeping only the inputs: what lies between is computed again on the way back.

    behind() is called behind the function each time, there and back.
    """
    with no_grad():
        y = function(*inputs).detach()
    behind()
    if not is_recording():
        return y
    dtype = current_compute()

    def back(grads: list[Array | None]) -> list[Array | None]:
        copies = [Tensor(x.array, x.requires_grad) for x in inputs]
        with compute(dtype):
            again = function(*copies)
        backward([again], grads)
        behind()
        return [x.grad for x in copies]

    # The function's own parameters need the tape even where no input does (the first block).
    y.requires_grad, y.node = True, Node(inputs, 1, back)
    return y
