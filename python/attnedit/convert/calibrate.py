"""How fast this machine is at a recipe's kernels: a step of each phase and an evaluation, run on drawn weights."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from attnedit.convert.recipe import Recipe
from attnedit.convert.rehearse import Kernels, Spans, rehearse_evaluation, rehearse_layerwise, rehearse_modelwise
from attnedit.distill.budget import Steps
from attnedit.models import DecoderConfig

SECONDS = 30.0  # about as long as the whole may take
PHASE_1, PHASE_2, EVALUATION = 1 / 4, 1 / 2, 1 / 4  # of them; phase 2 has the vocabulary in it, there and back
FIRST_TOKENS = 128


@dataclass(frozen=True)
class Rates:
    """Seconds that a floating-point operation of a kernel takes, or a byte that it moves where it has none."""

    per_flop: dict[str, float]
    per_byte: dict[str, float]

    def seconds(self, parts: list[tuple[Kernels, float]]) -> float:
        """Of kernels that run so many times."""
        seconds = 0.0
        for kernels, times in parts:
            for name, flops, size in kernels:
                each = flops * self.per_flop.get(name, 0.0) if flops else size * self.per_byte.get(name, 0.0)
                seconds += times * each
        return seconds


def calibrate(
    recipe: Recipe, source: DecoderConfig, target: DecoderConfig, edited: list[int], itemsize: int
) -> tuple[Rates, Rates, Rates]:
    """Of phase 1, phase 2 and evaluations: a step of each, of a model as deep as its layers are different, with one row
    that grows while there is time, for a product of few rows is slower than one of many."""
    depth = 1 if source.moe is None else max(1, min(source.num_hidden_layers, source.moe.decoder_sparse_step))
    depth = max(depth, edited[0] + 1)
    small, changed = (replace(c, attention=c.attention[:depth]) for c in (source, target))
    layers = [i for i in edited if i < depth]

    def first(tokens: int, timed: Spans) -> None:
        options = replace(recipe.layerwise, tokens=tokens)
        steps = Steps(tokens, 1, 1, 1)
        rehearse_layerwise(small, changed, layers[0], steps, options, recipe.compute, itemsize, timed)

    def second(tokens: int, timed: Spans) -> None:
        steps = Steps(tokens, 1, 1, 1)
        rehearse_modelwise(small, changed, layers, steps, recipe.modelwise, recipe.compute, itemsize, timed)

    def third(tokens: int, timed: Spans) -> None:
        rehearse_evaluation(small, changed, tokens, itemsize, timed)

    length = recipe.sequence_length
    return (
        _timed(first, length, PHASE_1 * SECONDS),
        _timed(second, length, PHASE_2 * SECONDS),
        _timed(third, length, EVALUATION * SECONDS),
    )


def _timed(phase: Callable[[int, Spans], None], longest: int, seconds: float) -> Rates:
    """Of the longest row that there is time for; of its second time, if there is time: untouched memory is slow."""
    tokens, again = min(FIRST_TOKENS, longest), False
    phase(tokens, Spans())  # the first time says nothing of how far the seconds go
    begun = time.monotonic()
    while True:
        found, started = Spans(), time.monotonic()
        phase(tokens, found)
        took, left = time.monotonic() - started, seconds - (time.monotonic() - begun)
        larger = min(longest, int(tokens * left / took) // 64 * 64)
        if larger >= 1.5 * tokens:
            tokens, again = larger, False
        elif again or left < took:
            return _rates(found)
        else:
            again = True


def _rates(found: Spans) -> Rates:
    seconds, flops, sizes = (defaultdict[tuple[str, bool], float](float) for _ in range(3))
    for span in found:
        key = (span["name"], span["flops"] > 0)
        seconds[key] += span["end"] - span["begin"]
        flops[key] += span["flops"]
        sizes[key] += span["bytes"]
    # Small kernels wait for Python to launch them.
    elapsed = max(span["end"] for span in found) - min(span["begin"] for span in found)
    slower = max(1.0, elapsed / sum(seconds.values()))
    return Rates(
        {name: slower * seconds[name, True] / flops[name, True] for name, has in seconds if has},
        {
            name: slower * seconds[name, False] / sizes[name, False]
            for name, has in seconds
            if not has and sizes[name, False]
        },
    )
