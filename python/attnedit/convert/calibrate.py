"""How fast this machine is at a recipe's kernels: the steps of both phases run for real, smaller, with no weights."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from attnedit import runtime
from attnedit.convert.recipe import Recipe
from attnedit.convert.rehearse import Kernels, rehearse_layerwise, rehearse_modelwise
from attnedit.distill.budget import Steps
from attnedit.models import DecoderConfig
from attnedit.profile import spans

SECONDS = 30.0  # about as long as the whole may take
FIRST_TOKENS = 64


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


def calibrate(recipe: Recipe, source: DecoderConfig, target: DecoderConfig, edited: list[int], itemsize: int) -> Rates:
    """Runs a step of phase 1 and one of phase 2, of a model as deep as its layers are different, with one row that
    grows while there is time. Weights are zeros, so that all tokens go to the same experts."""
    depth = 1 if source.moe is None else max(1, min(source.num_hidden_layers, source.moe.decoder_sparse_step))
    depth = max(depth, edited[0] + 1)
    small, changed = (replace(c, attention=c.attention[:depth]) for c in (source, target))
    layers = [i for i in edited if i < depth]
    begun, tokens, found = time.monotonic(), min(FIRST_TOKENS, recipe.sequence_length), list[dict[str, object]]()
    while True:
        before = time.monotonic()
        steps = Steps(tokens, 1, 1, 1)
        found = _spans(recipe, small, changed, layers, steps, itemsize)
        took, left = time.monotonic() - before, SECONDS - (time.monotonic() - begun)
        grown = min(recipe.sequence_length, int(tokens * left / (1.5 * took)) // 64 * 64)
        if grown < 1.5 * tokens:
            return _rates(found)
        tokens = grown


def _spans(
    recipe: Recipe, source: DecoderConfig, target: DecoderConfig, layers: list[int], steps: Steps, itemsize: int
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []

    @contextmanager
    def really() -> Iterator[runtime.Rehearsal]:
        with spans(found):
            yield runtime.Rehearsal(tasks=[])

    first = replace(recipe.layerwise, tokens=steps.sequence_length)
    rehearse_layerwise(source, target, layers[0], steps, first, recipe.compute, itemsize, really)
    rehearse_modelwise(source, target, layers, steps, recipe.modelwise, recipe.compute, itemsize, really)
    return found


def _rates(found: list[dict[str, object]]) -> Rates:
    seconds, flops, sizes = (defaultdict[tuple[str, bool], float](float) for _ in range(3))
    for span in found:
        name, work, size, begin, end = (span[key] for key in ("name", "flops", "bytes", "begin", "end"))
        assert isinstance(name, str) and isinstance(work, float) and isinstance(size, float)
        assert isinstance(begin, float) and isinstance(end, float)
        key = (name, work > 0)
        seconds[key], flops[key], sizes[key] = seconds[key] + end - begin, flops[key] + work, sizes[key] + size
    return Rates(
        {name: seconds[name, True] / flops[name, True] for name, has in seconds if has},
        {name: seconds[name, False] / sizes[name, False] for name, has in seconds if not has and sizes[name, False]},
    )
