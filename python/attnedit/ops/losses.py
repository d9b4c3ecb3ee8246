"""Losses. Each computes its gradient in the same pass as its value, so its gradient by itself is 1: add losses, and
put factors into their weights."""

from dataclasses import dataclass
from math import prod

import numpy as np

from attnedit import _core
from attnedit.autograd import grad_of, is_recording, record
from attnedit.compute import current_compute
from attnedit.ops.arguments import wants
from attnedit.tensor import Array, Tensor, empty


def _needs_grad(*tensors: Tensor) -> bool:
    return is_recording() and any(x.requires_grad for x in tensors)


@dataclass(frozen=True)
class Divergences:
    """loss [1] = sum of weights * each; each [N], the divergence of every token in nats."""

    loss: Tensor
    each: Tensor


@wants(student="..., D", teacher="..., D", student_head="V, D", teacher_head="V, D")
def fused_kl(
    student: Tensor,
    student_head: Tensor,
    teacher: Tensor,
    teacher_head: Tensor,
    weights: Tensor,
    divergence: str = "forward",
    temperature: float = 1.0,
) -> Divergences:
    """tau^2 KL(teacher || student) between next-token distributions; never holds N x V numbers.

    student, teacher: hidden states [B, T, D]; heads [V, D]; weights [N]. divergence: forward, reverse or jsd.
    """
    loss, each = empty((1,)), empty((prod(student.shape[:-1]),))
    dstudent = _core.empty(student.shape, student.dtype) if _needs_grad(student) else None
    dhead = grad_of(student_head) if _needs_grad(student_head) else None
    _core.fused_kl(
        student.array, student_head.array, teacher.array, teacher_head.array, weights.array, divergence, temperature,
        current_compute(), loss.array, each.array, dstudent, dhead,
    )  # fmt: skip
    record((loss,), (student, student_head), lambda _: (dstudent, None))
    return Divergences(loss, each)


@dataclass(frozen=True)
class Predictions:
    """loss [1] = sum of weights * nll; nll [N] in nats; argmax int32 [N], the most likely token."""

    loss: Tensor
    nll: Tensor
    argmax: Tensor


@wants(hidden="..., D", head="V, D")
def cross_entropy(hidden: Tensor, head: Tensor, labels: Array, weights: Tensor) -> Predictions:
    """-log softmax(hidden head^T)[label]; never holds N x V numbers.

    hidden [B, T, D], head [V, D], labels int32 [N] (-1: not counted), weights [N].
    """
    count = prod(hidden.shape[:-1])
    loss, nll, argmax = empty((1,)), empty((count,)), empty((count,), np.int32)
    dhidden = _core.empty(hidden.shape, hidden.dtype) if _needs_grad(hidden) else None
    dhead = grad_of(head) if _needs_grad(head) else None
    _core.cross_entropy(
        hidden.array, head.array, labels, weights.array, current_compute(),
        loss.array, nll.array, argmax.array, dhidden, dhead,
    )  # fmt: skip
    record((loss,), (hidden, head), lambda _: (dhidden, None))
    return Predictions(loss, nll, argmax)


@dataclass(frozen=True)
class SquaredError:
    """loss [1] = energy[0] / energy[1], the error's energy over the teacher's."""

    loss: Tensor
    energy: Tensor


@wants(student="..., D", teacher="..., D")
def fused_mse(student: Tensor, teacher: Tensor, weights: Tensor, eps: float = 1e-12) -> SquaredError:
    """Energy-normalised squared error sum w |s - t|^2 / (sum w |t|^2 + eps): 1 is what a zero output scores.

    student, teacher [B, T, D], weights [N].
    """
    loss, energy = empty((1,)), empty((2,))
    dstudent = _core.empty(student.shape, student.dtype) if _needs_grad(student) else None
    _core.fused_mse(student.array, teacher.array, weights.array, eps, loss.array, energy.array, dstudent)
    record((loss,), (student,), lambda _: (dstudent,))
    return SquaredError(loss, energy)


@wants(student="..., D", teacher="..., D")
def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """sum w (1 - cos(student, teacher)) over rows.   [B, T, D], weights [N] -> [1]"""
    loss = empty((1,))
    dstudent = _core.empty(student.shape, student.dtype) if _needs_grad(student) else None
    _core.cosine_loss(student.array, teacher.array, weights.array, loss.array, dstudent)
    record((loss,), (student,), lambda _: (dstudent,))
    return loss


@dataclass(frozen=True)
class Gram:
    """matrix [D, D] = head^T head of a frozen head of `vocabulary` rows."""

    matrix: Tensor
    vocabulary: int


@wants(head="V, D")
def gram(head: Tensor) -> Gram:
    """Of a frozen head [V, D] of any storage type: built once, it stands for the head in logit_mse."""
    if head.requires_grad:
        raise ValueError("[gram] head must be frozen, for its matrix is built once, got one that requires a gradient")
    vocabulary, width = head.shape
    matrix = empty((width, width))
    _core.gram(head.array, matrix.array)
    return Gram(matrix, vocabulary)


@wants(student="..., D", teacher="..., D")
def logit_mse(student: Tensor, teacher: Tensor, head: Gram, weights: Tensor) -> Tensor:
    """sum w mean_v (student head_v - teacher head_v)^2 under one frozen head, at the cost of D x D numbers a token.

    student, teacher: hidden states [B, T, D]; weights [N].   -> [1]
    """
    loss = empty((1,))
    dstudent = _core.empty(student.shape, student.dtype) if _needs_grad(student) else None
    _core.logit_mse(
        student.array, teacher.array, head.matrix.array, head.vocabulary, weights.array, loss.array, dstudent
    )
    record((loss,), (student,), lambda _: (dstudent,))
    return loss
