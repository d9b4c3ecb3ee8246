"""The learning rate over a phase."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` share of `steps`, then a cosine down to `final` times the peak."""

    peak: float
    steps: int
    warmup: float = 0.05
    final: float = 0.05

    def rate(self, step: int) -> float:
        """For step 0 .. steps - 1."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.peak * (step + 1) / rising
        progress = (step - rising) / max(1, self.steps - rising)
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))
