"""What the steps of a conversion really take, beside what `attnedit plan` says: peak resident memory, disk, seconds.

    python benchmarks/scaling/measure.py FOLDER --steps layerwise --tokens 16384 --length 2048 --compute bfloat16

The recipe is made here: MLA of rank 512 + 64 from a random start, random tokens, as many in each phase as asked for.
Resident memory is VmHWM: everything of the process that was in memory at once, mapped weights included. A line of JSON
for each step.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import attnedit as ae
from attnedit import distill
from attnedit.convert.plan import plan, times
from attnedit.convert.recipe import Data, Recipe
from attnedit.models import Decoder
from attnedit.runtime import empty_cache, peak_resident_memory

STEPS = ("load", "edit", "layerwise", "evaluate", "modelwise", "export")
EVALUATED = 4  # rows


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def recipe_of(asked: argparse.Namespace, run: Path) -> Recipe:
    batch = asked.batch or asked.length
    return Recipe(
        teacher=str(asked.folder),
        target=ae.MLA(kv_lora_rank=asked.rank, qk_rope_head_dim=asked.rope, init=asked.init),
        data=Data(train=["-"], sequence_length=asked.length),
        layerwise=distill.LayerwiseOptions(
            tokens=asked.tokens, batch_tokens=batch, learning_rate=1e-4, activations=asked.activations
        ),
        modelwise=distill.ModelwiseOptions(
            tokens=asked.tokens, batch_tokens=batch, learning_rate=1e-5, recompute=True, teacher=asked.teacher,
            feature_weight=0.0 if asked.teacher == "cached" else 0.05,
        ),
        run=str(run),
        compute=asked.compute,
    )  # fmt: skip


def measured(
    recipe: Recipe, steps: list[str], run: Path, say: Callable[[dict[str, object]], None], calibrated: bool = False
) -> None:
    rng, folder = np.random.default_rng(0), run / "work"
    planned = plan(recipe)
    say({
        "step": "plan", "edit": planned.edit_memory, "layerwise": planned.layerwise_memory,
        "modelwise": planned.modelwise_memory, "disk": planned.disk.end,
    })  # fmt: skip
    if calibrated:
        seconds = times(recipe, planned, EVALUATED)
        say(dict(zip(("step", "layerwise", "modelwise", "evaluate"), ("seconds", *seconds), strict=True)))
        empty_cache()
    peak_resident_memory(reset=True)
    models: list[Decoder] = []

    def step(name: str, work: Callable[[], object]) -> None:
        if name not in (*steps, "load"):
            return
        begun = time.perf_counter()
        work()
        watch()
        seconds = time.perf_counter() - begun
        say({
            "step": name, "peak_bytes": peak_resident_memory(reset=True), "most_disk_bytes": most_disk,
            "disk_bytes": on_disk(run), "seconds": round(seconds, 2),
        })  # fmt: skip

    def watch(*_: object) -> None:
        nonlocal most_disk
        most_disk = max(most_disk, on_disk(run))

    most_disk = 0
    step("load", lambda: models.append(ae.load(recipe.teacher)))
    (teacher,) = models
    length = recipe.sequence_length
    needed = max(recipe.layerwise.tokens, recipe.modelwise.tokens)
    rows = rng.integers(0, teacher.config.vocab_size, (max(2, needed // length), length)).astype(np.int32)
    step("edit", lambda: models.append(ae.edit(teacher, recipe.target, rows, folder=folder / "edit")))
    if len(models) == 1:
        models.append(ae.edit(teacher, ae.MLA(**(vars(recipe.target) | {"init": "random"})), folder=folder / "start"))
        peak_resident_memory(reset=True)
    student = models[1]
    with ae.compute(recipe.compute):
        step("layerwise", lambda: distill.layerwise(
            student, teacher, rows, recipe.layerwise, folder=folder / "layerwise", on_step=watch,
        ))  # fmt: skip
    step("evaluate", lambda: ae.evaluate(student, teacher, list(rows[:EVALUATED])))
    with ae.compute(recipe.compute):
        step("modelwise", lambda: distill.modelwise(
            student, teacher, rows, recipe.modelwise, folder=folder / "modelwise", on_step=watch,
        ))  # fmt: skip
    step("export", lambda: ae.export(student, folder / "student", dtype="float32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", default=",".join(STEPS), help=f"of {','.join(STEPS)}")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, help="tokens a step; default: a row")
    parser.add_argument("--rank", type=int, default=512)
    parser.add_argument("--rope", type=int, default=64)
    parser.add_argument("--init", default="random", choices=("random", "regression"))
    parser.add_argument("--compute", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--activations", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--teacher", default="live", choices=("live", "cached"))
    parser.add_argument("--calibrate", action="store_true", help="tell what seconds `plan --calibrate` expects")
    parser.add_argument("--scratch", type=Path, help="where the run folder goes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        recipe = recipe_of(asked, Path(scratch))
        measured(
            recipe,
            asked.steps.split(","),
            Path(scratch),
            lambda line: print(json.dumps(line), flush=True),
            asked.calibrate,
        )


if __name__ == "__main__":
    main()
