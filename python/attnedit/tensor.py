"""Tensor: a numpy array in the device's memory, its gradient, and the operation that made it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from attnedit import _core, runtime

Array: TypeAlias = npt.NDArray[Any]


def kept_by_pool(array: Array) -> bool:
    """Whether its memory outlives the kernels that are queued on it: the pool's, or borrowed already."""
    root: Any = array
    while isinstance(root, np.ndarray):
        root = root.base
    return type(root).__name__ == "PyCapsule"


class Tensor:
    """A row-major array whose values are computed by the current stream.

    `array` is the memory itself: kernels read and write it in the order of the stream. `numpy()` waits for the stream
    first, so look at values through it. Activations are float32; weights may be bfloat16 or float16. An array that is
    not the pool's, a memory-mapped weight, is taken without a copy and stays alive until no queued kernel can read it.
    """

    __slots__ = ("__weakref__", "array", "grad", "index", "lender", "node", "requires_grad")

    def __init__(self, array: Array, requires_grad: bool = False) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"[Tensor] array must be a numpy array, got {type(array).__name__}; ae.tensor makes one")
        self.array = array
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Any = None  # the tape's record of the operation that made it; None for a leaf
        self.index = 0
        self.lender: Array | None = None  # where array was borrowed; it knows the file that it is mapped from
        if not kept_by_pool(array):
            self.array, self.lender = _core.borrow(array), array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def numpy(self) -> Array:
        """The values, without a copy, once everything launched so far has been computed."""
        runtime.synchronize()
        return self.array if self.lender is None else self.lender

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.numpy().__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def item(self) -> float:
        return float(self.numpy().item())

    def detach(self) -> "Tensor":
        """The same values, unknown to the tape."""
        return Tensor(self.array)

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), precision=4, threshold=20)}, {self.dtype}{self.shape}{grad})"


def empty(shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Tensor:
    """Memory from the pool, its values undefined."""
    return Tensor(_core.empty(tuple(shape), np.dtype(dtype)))


def full(shape: Sequence[int], value: float) -> Tensor:
    """A float32 tensor with one value everywhere."""
    made = empty(shape)
    _core.fill(made.array, value)
    return made


def tensor(values: npt.ArrayLike, requires_grad: bool = False) -> Tensor:
    """A float32 copy of values."""
    source = np.ascontiguousarray(values, dtype=np.float32)
    made = Tensor(_core.empty(source.shape, source.dtype), requires_grad)
    _core.upload(source, made.array)
    return made
