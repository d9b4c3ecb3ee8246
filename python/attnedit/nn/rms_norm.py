"""RMSNorm."""

from attnedit import ops
from attnedit.nn.module import Module, unset
from attnedit.tensor import Tensor


class RMSNorm(Module):
    """x weight / sqrt(mean(x^2) + eps), over rows or over heads of `size` numbers."""

    def __init__(self, size: int, eps: float) -> None:
        self.weight = unset(size)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)
