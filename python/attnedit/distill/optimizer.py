"""AdamW over named parameters."""

from collections.abc import Mapping

import numpy as np

from attnedit import _core
from attnedit.autograd import grad_of
from attnedit.tensor import Array, Tensor, full, tensor


class AdamW:
    """One fused pass per parameter; gradients are zero again behind it. Loshchilov & Hutter (arXiv 1711.05101).

    `multipliers` scales the rate of single parameters by name (1 where absent).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip: float | None = None,
        multipliers: Mapping[str, float] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.multipliers = dict(multipliers or {})
        self.steps = 0
        self._moments = {name: (full(p.shape, 0), full(p.shape, 0)) for name, p in self.parameters.items()}
        self._norm, self._scale = full((1,), 0), full((1,), 1)

    def step(self, rate: float) -> None:
        """Moves every parameter by its gradient, clipped to a global norm where `clip` is set."""
        self.steps += 1
        if self.clip is not None:
            _core.fill(self._norm.array, 0.0)
            for p in self.parameters.values():
                _core.squared_norm(grad_of(p), self._norm.array)
            _core.clip_scale(self._norm.array, self.clip, self._scale.array)
        scale = None if self.clip is None else self._scale.array
        for name, p in self.parameters.items():
            first, second = self._moments[name]
            decay = self.weight_decay if len(p.shape) > 1 else 0.0
            _core.adamw(
                p.array, grad_of(p), first.array, second.array, scale, rate * self.multipliers.get(name, 1.0),
                *self.betas, self.eps, decay, self.steps,
            )  # fmt: skip

    def state(self) -> dict[str, Array]:
        """Everything that a continued run needs, the parameters included."""
        arrays: dict[str, Array] = {"steps": np.array([self.steps], np.int64)}
        for name, p in self.parameters.items():
            first, second = self._moments[name]
            arrays |= {f"parameter/{name}": p.numpy(), f"first/{name}": first.numpy(), f"second/{name}": second.numpy()}
        return arrays

    def first_not_finite(self) -> str | None:
        """The name of the first parameter that holds NaN or Inf."""
        return next((name for name, p in self.parameters.items() if not np.isfinite(p.numpy()).all()), None)

    def restore(self, state: Mapping[str, Array]) -> None:
        self.steps = int(state["steps"][0])
        for name, p in self.parameters.items():
            first, second = self._moments[name]
            for kind, target in (("parameter", p), ("first", first), ("second", second)):
                _core.upload(np.ascontiguousarray(state[f"{kind}/{name}"]), target.array)


def trainable(parameter: Tensor) -> Tensor:
    """A float32 copy that takes gradients; whoever shared the original keeps it."""
    return tensor(np.asarray(parameter.numpy(), dtype=np.float32), requires_grad=True)
