"""A whole conversion beside what `attnedit plan --calibrate` says of its parts: seconds, memory, disk.

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
from attnedit.data import Tokenizer
from attnedit.runtime import empty_cache, peak_resident_memory


class Parts(Progress):
    """How long each part takes and the process's memory at its most, in place of telling how far it is."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.since("start")

    def since(self, name: str) -> None:
        """What comes now belongs to this part."""
        if self.seconds:
            self.peaks[self._name] = max(self.peaks.get(self._name, 0), peak_resident_memory(reset=True))
            self.seconds[self._name] += time.perf_counter() - self._begun
        self.seconds.setdefault(name, 0.0)
        self._name, self._begun = name, time.perf_counter()

    @contextmanager
    def phase(self, name: str, layers: Sequence[int] = (0,), unit: str = "steps") -> Iterator[OnStep]:
        self.since(name.split(" (")[0])
        yield lambda layer, step, steps, loss: None
        self.since("behind " + self._name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--tokens", type=int, help="of each phase; default: as the recipe says")
    parser.add_argument("--scratch", type=Path, help="where the run folder goes")
    asked = parser.parse_args()
    recipe = read_recipe(asked.recipe)
    if asked.tokens is not None:
        first, second = (replace(options, tokens=asked.tokens) for options in (recipe.layerwise, recipe.modelwise))
        recipe = replace(recipe, layerwise=first, modelwise=second)
    tokenizer = Tokenizer(recipe.teacher)
    planned = plan(recipe)
    expected = times(recipe, planned, text_size(recipe, planned, tokenizer).evaluated_rows)
    empty_cache()
    peak_resident_memory(reset=True)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        parts = Parts()
        convert(replace(recipe, run=f"{scratch}/run"), parts)
        parts.since("end")
        disk = sum(path.stat().st_blocks * 512 for path in Path(scratch).rglob("*") if path.is_file())
    seconds = dict(zip(("layer-wise", "model-wise", "evaluating"), expected, strict=True))
    memory = {
        "editing": planned.edit_memory,
        "layer-wise": planned.layerwise_memory,
        "model-wise": planned.modelwise_memory,
    }
    for name, peak in parts.peaks.items():
        line = {"part": name, "MiB": peak >> 20, "seconds": round(parts.seconds[name], 1)}
        line |= {"planned MiB": memory[name] >> 20} if name in memory else {}
        print(json.dumps(line | ({"planned seconds": round(seconds[name], 1)} if name in seconds else {})))
    print(
        json.dumps(
            {
                "part": "disk in the end",
                "MiB": round(disk / 2**20, 2),
                "planned MiB": round(planned.disk.end / 2**20, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
