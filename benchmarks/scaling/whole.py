"""A whole conversion beside what `attnedit plan --calibrate` says of its parts: seconds.

python examples/stdlib_text.py runs/stdlib
python benchmarks/scaling/whole.py examples/demo_mla.yaml --tokens 100_000
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from attnedit.convert import convert, read_recipe
from attnedit.convert.plan import plan, times
from attnedit.convert.progress import OnStep, Progress
from attnedit.convert.text_size import text_size
from attnedit.runtime import empty_cache


class Clock(Progress):
    """How long each phase takes, in place of telling how far it is."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, layers: Sequence[int] = (0,), unit: str = "steps") -> Iterator[OnStep]:
        begun = time.perf_counter()
        yield lambda layer, step, steps, loss: None
        self.seconds[name] = time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--tokens", type=int, help="of each phase; default: as the recipe says")
    asked = parser.parse_args()
    recipe = read_recipe(asked.recipe)
    if asked.tokens is not None:
        first, second = (replace(options, tokens=asked.tokens) for options in (recipe.layerwise, recipe.modelwise))
        recipe = replace(recipe, layerwise=first, modelwise=second)
    planned = plan(recipe)
    expected = times(recipe, planned, text_size(recipe, planned).heldout_rows)
    empty_cache()
    with tempfile.TemporaryDirectory() as scratch:
        clock, begun = Clock(), time.perf_counter()
        convert(replace(recipe, run=f"{scratch}/run"), clock)
        whole = time.perf_counter() - begun
    evaluations = sum(seconds for name, seconds in clock.seconds.items() if name.startswith("evaluating"))
    parts = {"phase 1": clock.seconds["layer-wise"], "phase 2": clock.seconds["model-wise"], "evaluations": evaluations}
    for (name, seconds), say in zip(parts.items(), expected, strict=True):
        print(json.dumps({"part": name, "planned": round(say, 1), "seconds": round(seconds, 1)}))
    rest = {
        "part": "the text, the edit, probes, the report, the export",
        "seconds": round(whole - sum(parts.values()), 1),
    }
    print(json.dumps(rest))


if __name__ == "__main__":
    main()
