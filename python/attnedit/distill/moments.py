"""What an optimizer remembers of one parameter, and how it moves it."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from attnedit import _core, runtime
from attnedit.autograd import grad_of
from attnedit.tensor import Array, Tensor, full, tensor

# A longer side of a matrix is left as it is: its square matrix would cost more than it brings (a vocabulary).
LONGEST_SIDE = 4096
ROUNDING = 1e-5  # of the largest entry: what a rotated float32 gradient holds where it should be 0
REFRESH_EVERY = 10  # steps between two corrections of the bases


@dataclass(frozen=True)
class Step:
    """What one step does to every parameter; `scale` (1) holds the clip factor once the stream has come there."""

    number: int  # from 1
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    scale: Array | None


class Adam:
    """The moments of one parameter, and of a bfloat16 one its float32 master, which steps are added to."""

    def __init__(self, p: Tensor) -> None:
        self.first, self.second = full(p.shape, 0), full(p.shape, 0)
        self.master = None if p.dtype == np.float32 else tensor(p.numpy())

    def move(self, p: Tensor, step: Step, rate: float) -> None:
        moved, rounded = (p.array, None) if self.master is None else (self.master.array, p.array)
        _core.adamw(
            moved, grad_of(p), self.first.array, self.second.array, step.scale, rounded, rate, *step.betas, step.eps,
            step.weight_decay, step.number, True,
        )  # fmt: skip

    def arrays(self) -> dict[str, Array]:
        master = {} if self.master is None else {"master": self.master.numpy()}
        return {"first": self.first.numpy(), "second": self.second.numpy(), **master}


@cache
def _blas() -> ThreadpoolController:
    """numpy's BLAS; looked up at first need, since that walks over every library of the process."""
    return ThreadpoolController().select(user_api="blas")


def rotates(shape: tuple[int, ...]) -> bool:
    """Whether Soap has a side to rotate."""
    return len(shape) == 2 and min(shape) <= LONGEST_SIDE


def kept_numbers(shape: tuple[int, ...], soap: bool) -> int:
    """How many an optimizer remembers of a parameter: two moments, and of sides that rotate statistics and a basis."""
    sides = [side for side in shape if side <= LONGEST_SIDE] if soap and rotates(shape) else []
    return 2 * math.prod(shape) + sum(2 * side**2 for side in sides)


class Soap:
    """The moments of one matrix G (M,N), the second one in the eigenbasis of Shampoo's statistics.

        L = E[G G^T],  R = E[G^T G],  Q_L and Q_R their eigenvectors
        V = E[(Q_L^T G Q_R)^2],  M = E[G];  W -= rate * Q_L [(Q_L^T M Q_R) / (sqrt V + eps)] Q_R^T

    with averages as Adam takes them. Vyas et al. (arXiv 2409.11321): the eigenvectors are exact at the first step and
    then follow by one orthogonalised product now and then. Averages of products use the second beta.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.first, self.second = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.sides = [Side(n) for n in shape]

    def move(self, p: Tensor, step: Step, rate: float) -> None:
        gradient = grad_of(p)
        runtime.synchronize()
        with _blas().limit(limits=1):  # the same bits for any number of threads
            g = gradient if step.scale is None else gradient * step.scale[0]
            b1, b2 = step.betas
            left, right = self.sides
            left.follow(g, b2, step.number, self, axis=0)
            right.follow(g.T, b2, step.number, self, axis=1)
            self.first += (1 - b1) * (g - self.first)
            self.second += (1 - b2) * (np.square(left.into(right.into(g.T).T)) - self.second)
            momentum = left.into(right.into(self.first.T).T) / (1 - b1**step.number)
            spread = np.sqrt(self.second / (1 - b2**step.number))
            # Where no gradient ever pointed, both are rounding noise: it must not become a step.
            change = momentum / (spread + (step.eps + ROUNDING * spread.max()))
            # Adam's ratio never exceeds this (Cauchy-Schwarz). Here it could where a basis has just turned, and the
            # second moment has not yet seen what the momentum holds.
            most = (1 - b1) / math.sqrt((1 - b2) * (1 - b1 * b1 / b2))
            np.clip(change, -most, most, out=change)
            p.array -= rate * (left.back(right.back(change.T).T) + step.weight_decay * p.array)
        gradient[...] = 0

    def arrays(self) -> dict[str, Array]:
        arrays = {"first": self.first, "second": self.second}
        for name, side in zip(("left", "right"), self.sides, strict=True):
            if side.basis is not None:
                arrays |= {f"{name}_statistics": side.statistics, f"{name}_basis": side.basis}
        return arrays


class Side:
    """One side of a matrix: its statistics and their eigenvectors, as columns, largest first."""

    def __init__(self, n: int) -> None:
        self.basis: Array | None = np.eye(n, dtype=np.float32) if n <= LONGEST_SIDE else None
        self.statistics: Array = np.zeros((n, n) if self.basis is not None else (0, 0), np.float32)

    def follow(self, g: Array, beta: float, number: int, moments: Soap, axis: int) -> None:
        """Takes in a gradient; where the order of the eigenvectors changes, the second moment changes with it."""
        if self.basis is None:
            return
        self.statistics += (1 - beta) * (g @ g.T - self.statistics)
        if number == 1:
            self.basis[...] = np.linalg.eigh(self.statistics)[1][:, ::-1]
        elif number <= 3 or number % REFRESH_EVERY == 0:
            product = self.statistics @ self.basis
            order = np.argsort(-np.einsum("ij,ij->j", self.basis, product), kind="stable")
            self.basis[...] = np.linalg.qr(product[:, order])[0]
            moments.second[...] = np.take(moments.second, order, axis=axis)

    def into(self, x: Array) -> Array:
        return x if self.basis is None else self.basis.T @ x

    def back(self, x: Array) -> Array:
        return x if self.basis is None else self.basis @ x
