"""What a benchmark file describes. One file per kernel, the kernel's stem, with four names:

CASES            what is measured: shapes by name, the direction, the work that the definition needs
inputs(case)     the arrays that every side begins with, from fixed seeds
ours(case, x)    -> run: attnedit's kernels on x, outputs allocated beforehand
PEERS            {name: function(case, x) -> run}; "torch ..." runs under the peer's Python, "numpy ..." under ours

run() does the work once and returns its answers by name; the sides' answers are compared before a clock starts. This
module is imported by every side, so it needs only numpy.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Run = Callable[[], Mapping[str, Any]]

SHAPES: dict[str, dict[str, int]] = json.loads((Path(__file__).parent / "shapes.json").read_text())


MEMORY = ("read", "copy", "mixed")  # limits in bytes


@dataclass(frozen=True)
class Case:
    """name: the model's and the sizes that vary, as T2048, W512, V151936, so that plots find them. limit: what bounds
    the case: fma and pairs count `work` in floating-point operations; copy, mixed and read count it in bytes. read:
    bytes that arithmetic must also read; where they take longer they are the limit. dtype bfloat16: we multiply float32
    arrays in bfloat16, and torch has the same numbers as bfloat16 tensors."""

    name: str
    direction: str
    shape: dict[str, Any]
    limit: str
    work: float
    peers: tuple[str, ...] = ()
    dtype: str = "float32"
    tolerance: float = 1e-4  # of the greatest number of an answer
    read: float = 0
    threads: int | None = None  # None: every core
    kept: bool = True  # beside torch that keeps its memory too, not only as shipped
    long: bool = False  # only when asked for
    steps: bool = False  # a run goes on where the one before ended: the answers are those of the second
    quick: bool = field(init=False)  # small enough to check the answers in passing

    def __post_init__(self) -> None:
        small = self.work < (1e10 if self.arithmetic else 1.5e8)
        object.__setattr__(self, "quick", small)

    @property
    def arithmetic(self) -> bool:
        return self.limit not in MEMORY

    @property
    def memory(self) -> bool:
        return self.limit in MEMORY or self.read > 0

    def in_bfloat16(self, *peers: str) -> "Case":
        """The same with products of bfloat16, beside those peers."""
        # Both round factors, and torch its answers too.
        return replace(self, name=f"{self.name} bf16", dtype="bfloat16", limit="pairs", tolerance=4e-2, peers=peers)

    @property
    def backward(self) -> bool:
        return self.direction == "f+b"


def normal(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Array:
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    x *= np.float32(scale)
    return x


def rotary_tables(length: int, dim: int, theta: float = 1e6) -> tuple[Array, Array]:
    """cos and sin [length, dim / 2]."""
    angles = np.outer(np.arange(length), theta ** (-np.arange(0, dim, 2) / dim))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def empty(*shape: int) -> Array:
    """An output of ours, from the device's pool."""
    from attnedit import _core

    made: Array = _core.empty(shape, np.dtype(np.float32))
    return made


def zeros(*shape: int) -> Array:
    from attnedit import _core

    made = empty(*shape)
    _core.fill(made, 0.0)
    return made


def torch_run(case: Case, x: Mapping[str, Any], wanted: tuple[str, ...], function: Callable[..., Any]) -> Run:
    """A peer's run: function(**x) -> answers by name, of which the first is differentiated by the inputs `wanted`.

    The gradient that enters is x["dy"], or the several x["d" + name], or 1 for a loss.
    """
    import torch

    def given(value: Any) -> Any:
        low = case.dtype == "bfloat16" and value.dtype == torch.float32
        return value.detach().to(torch.bfloat16 if low else value.dtype)

    data = {name: given(value) for name, value in x.items() if not name.startswith("d")}
    gradients = {name: given(value) for name, value in x.items() if name.startswith("d")}
    if not wanted:

        def forward() -> Mapping[str, Any]:
            with torch.inference_mode():
                answers: Mapping[str, Any] = function(**data)
                return answers

        return forward
    leaves = {name: data[name].requires_grad_() for name in wanted}

    def both() -> Mapping[str, Any]:
        answers = function(**data)
        entering = [gradients.get(f"d{name}") for name in answers]
        grads = torch.autograd.grad(list(answers.values()), list(leaves.values()), entering)
        return {name: y.detach() for name, y in answers.items()} | {
            f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)
        }

    return both
