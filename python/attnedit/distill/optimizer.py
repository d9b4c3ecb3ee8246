"""AdamW and SOAP over named parameters."""

from collections.abc import Mapping
from typing import Literal

import ml_dtypes
import numpy as np

from attnedit import _core
from attnedit.autograd import grad_of
from attnedit.distill.moments import Adam, Soap, Step, rotates
from attnedit.tensor import Array, Tensor, full, tensor

Method = Literal["adamw", "soap"]


class Optimizer:
    """Moves parameters by their gradients, which are zero again behind it.

    adamw: Loshchilov & Hutter (arXiv 1711.05101), one fused pass per parameter.
    soap: Adam in the eigenbasis of Shampoo's statistics (arXiv 2409.11321) for matrices, AdamW for the rest. It goes
    further in the same number of steps and holds two square matrices per side of a matrix.

    `clip` is a global gradient norm; `multipliers` scales the rate of single parameters by name (1 where absent).

    adamw keeps a float32 master of a bfloat16 parameter and rounds it in the same pass: in bfloat16 alone, steps below
    1/256 of a weight would be lost. soap takes float32 parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        method: Method = "adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: float | None = None,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        wanted = (np.float32,) if method == "soap" else (np.float32, ml_dtypes.bfloat16)
        for name, p in parameters.items():
            if p.dtype not in wanted:
                names = " or ".join(np.dtype(t).name for t in wanted)
                raise ValueError(f"[optimizer] {method} moves {names} parameters, got {name}, {p.dtype}")
        self.parameters = dict(parameters)
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.multipliers = dict(multipliers or {})
        self.steps = 0
        self._moments: dict[str, Adam | Soap] = {
            name: Soap(p.shape) if method == "soap" and rotates(p.shape) else Adam(p)
            for name, p in self.parameters.items()
        }
        self._norm, self._scale = full((1,), 0), full((1,), 1)

    def step(self, rate: float) -> None:
        self.steps += 1
        if self.clip is not None:
            _core.fill(self._norm.array, 0.0)
            for p in self.parameters.values():
                _core.squared_norm(grad_of(p), self._norm.array)
            _core.clip_scale(self._norm.array, self.clip, self._scale.array)
        scale = None if self.clip is None else self._scale.array
        for name, p in self.parameters.items():
            decay = self.weight_decay if len(p.shape) > 1 else 0.0
            step = Step(self.steps, self.betas, self.eps, decay, scale)
            self._moments[name].move(p, step, rate * self.multipliers.get(name, 1.0))

    def state(self) -> dict[str, Array]:
        """Everything that a continued run needs, the parameters included."""
        arrays: dict[str, Array] = {"steps": np.array([self.steps], np.int64)}
        for name, p in self.parameters.items():
            arrays[f"parameter/{name}"] = p.numpy()
            arrays |= {f"{kind}/{name}": array for kind, array in self._moments[name].arrays().items()}
        return arrays

    def first_not_finite(self) -> str | None:
        """The name of the first parameter that holds NaN or Inf."""
        return next((name for name, p in self.parameters.items() if not np.isfinite(p.numpy()).all()), None)

    def restore(self, state: Mapping[str, Array]) -> None:
        self.steps = int(state["steps"][0])
        for name, p in self.parameters.items():
            _core.upload(np.ascontiguousarray(state[f"parameter/{name}"]), p.array)
            for kind, array in self._moments[name].arrays().items():
                array[...] = state[f"{kind}/{name}"]


def trainable(parameter: Tensor) -> Tensor:
    """A float32 copy that takes gradients; whoever shared the original keeps it."""
    return tensor(np.asarray(parameter.numpy(), dtype=np.float32), requires_grad=True)
