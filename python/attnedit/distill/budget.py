"""From a token budget to steps, and what `auto` means.

The right rate follows the scale of the weights, not the width: a multiple of the root mean square of o_proj. Many small
steps beat few large ones: one row a step (256 tokens at least) until there are 8,000 steps.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from attnedit.activations import pass_rows
from attnedit.models import Decoder
from attnedit.tensor import Tensor

Auto = Literal["auto"]
Tokens = Annotated[int, Field(ge=1, le=10**15)]
Rate = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
MOST_STEPS = 8000
LEAST_BATCH_TOKENS = 256


@dataclass(frozen=True)
class Steps:
    sequence_length: int
    steps: int
    rows: int  # per step
    micro_rows: int  # per pass

    @property
    def passes(self) -> list[slice]:
        """The rows of a step, a pass at a time."""
        return [slice(i, min(i + self.micro_rows, self.rows)) for i in range(0, self.rows, self.micro_rows)]


def steps_for(tokens: int, sequence_length: int, batch_tokens: int | Auto) -> Steps:
    """How many steps of how many rows spend the budget."""
    if batch_tokens == "auto":
        batch_tokens = max(sequence_length, LEAST_BATCH_TOKENS, tokens // MOST_STEPS)
    rows = max(1, int(batch_tokens) // sequence_length)
    return Steps(
        sequence_length,
        max(1, round(tokens / (rows * sequence_length))),
        rows,
        min(rows, pass_rows(sequence_length)),
    )


def rms(weight: Tensor) -> float:
    values = np.asarray(weight.numpy(), dtype=np.float32)
    return float(np.sqrt(np.mean(values * values)))


def o_proj_rms(teacher: Decoder, layers: list[int]) -> float:
    return float(np.mean([rms(teacher.layers[i].self_attn.o_proj.weight) for i in layers]))


def layerwise_rate(teacher: Decoder, layer: int, steps: int, start_nmse: float) -> float:
    """0.2 x RMS(o_proj), falling to half of it from 2,000 steps on; a layer that starts nearer than an error of 0.35
    moves less in proportion, down to a tenth."""
    longer = min(1.0, max(0.5, math.sqrt(500 / steps)))
    nearness = min(1.0, max(0.1, start_nmse / 0.35))
    return 0.2 * longer * nearness * o_proj_rms(teacher, [layer])


def modelwise_rate(teacher: Decoder, layers: list[int], start_kl: float) -> float:
    """0.04 x RMS(o_proj); a student that starts nearer than 0.3 nats moves less with the square, down to a tenth."""
    nearness = min(1.0, max(0.1, (start_kl / 0.3) ** 2))
    return 0.04 * nearness * o_proj_rms(teacher, layers)
