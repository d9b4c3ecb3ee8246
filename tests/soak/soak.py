"""Conversions and exports that are killed, starved, moved and damaged, and end with the same bits all the same.

    python tests/soak/soak.py --kills 100 --seed 0

Kills fall where files change: while the text is tokenised, the layers initialised, in the store of hidden states, the
training states of both phases, the evaluations, the student and the export. Between them the disk refuses long files,
the system refuses memory, the clock jumps, the whole folder is moved, and a bit is flipped in what a run keeps for
itself: that must be told by the file's name and be made again, by itself or once the file is removed. Ends with exit
status 1 at the first difference from an undisturbed run.
"""

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from child import YEAR, Trouble, apart, run
from safetensors.numpy import load_file
from tiny import write_recipe

TARGETS = (
    {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8},
    {"attention": "gate_swa", "sliding_window": 8, "full_layers": "auto"},
)
FORMATS = ("deepseek_v3", "lfm3")
DENSITY = 0.08
MOVED = CLOCK = STARVED = FLIPPED = 0.1  # of the starts
# Without memory OpenBLAS, tokenizers and CPython's own calls end in their own ways.
GAVE_UP = ("emory allocation", "returned NULL without setting an exception")
FIGURES = ("kl", "top1_agreement", "layers", "modelwise", "layerwise_kept")  # of report.json; the others have times

# What a kill interrupted, by the first of these names that is not there yet.
STAGES = {
    "reading": "provenance.json", "edit": "edit/config.json", "layer-wise": "evaluations/layerwise.json",
    "model-wise": "evaluations/modelwise.json", "report": "report.json", "student": "student/config.json",
}  # fmt: skip


def stage(run_folder: Path) -> str:
    found = next((stage for stage, name in STAGES.items() if not (run_folder / name).exists()), "end")
    for phase in ("layerwise", "modelwise"):
        for store in (run_folder / phase / "activations").glob("*.safetensors"):
            if len(set(load_file(store)["stamps"][:, 0].tolist())) > 1:
                return f"{found}, hidden states"
    return found


def flip_a_bit(run_folder: Path, rng: random.Random) -> Path | None:
    """In something that the run keeps for itself, where there is any."""
    found = [path for kind in ("safetensors", "json") for path in run_folder.rglob(f"*.{kind}")]
    kept = [p for p in found if p.relative_to(run_folder).parts[0] not in ("student", "provenance.copy.json")]
    if not kept:
        return None
    path = rng.choice(sorted(kept))
    with path.open("r+b") as file:
        at = rng.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    return path


def ended_with(folder: Path) -> dict[str, object]:
    """The bits of the student and of the export, and the figures of the report."""
    found: dict[str, object] = {}
    for part in (folder / "run/student", folder / "export"):
        for path in [*part.glob("*.safetensors"), part / "config.json"]:
            found[str(path.relative_to(folder))] = path.read_bytes()
    report = json.loads((folder / "run/report.json").read_text())
    return found | {name: report[name] for name in FIGURES}


class Soak:
    def __init__(self, seed: int, place: Path) -> None:
        self.rng, self.place, self.counts = random.Random(seed), place, collections.Counter[str]()
        self.kinds = collections.Counter[str]()
        self.calm = []
        self.longest = 0  # file that an undisturbed run writes
        for which in range(len(TARGETS)):
            folder = self.made(f"calm-{which}", which)
            for command in self.commands(folder, which):
                code, said, kinds = run(command, folder, Trouble(0))
                if code != 0:
                    sys.exit(f"undisturbed, exit status {code}: {said}")
                self.kinds |= kinds
            self.calm.append(ended_with(folder))
            self.longest = max(path.stat().st_size for path in (folder / "run").rglob("*.safetensors"))

    def made(self, name: str, which: int) -> Path:
        folder = self.place / name / "here"
        folder.mkdir(parents=True)
        apart(lambda: write_recipe(folder, target=TARGETS[which]))
        return folder

    def commands(self, folder: Path, which: int) -> list[list[str]]:
        export = ["export", str(folder / "run"), "--format", FORMATS[which], "--out", str(folder / "export")]
        return [["convert", str(folder / "recipe.yaml")], export]

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.counts.items() if not name.startswith("("))

    def trouble(self) -> Trouble:
        trouble = Trouble(self.rng.randrange(1 << 30), DENSITY, self.kinds)
        if self.rng.random() < CLOCK:
            trouble.clock = self.rng.uniform(-YEAR, YEAR)
        if self.rng.random() < STARVED:
            trouble.density = 0
            if self.rng.random() < 0.5:
                trouble.file_bytes = self.rng.randrange(self.longest)
            else:
                trouble.address_bytes = self.rng.randrange(1 << 26)
        return trouble

    def disturbed(self, number: int) -> None:
        """One conversion and its export."""
        which = number % len(TARGETS)
        folder = self.made(f"disturbed-{number}", which)
        for step in range(2):
            flipped: list[str] = []  # paths in the folder
            while True:
                trouble = self.trouble()
                code, said, _ = run(self.commands(folder, which)[step], folder, trouble)
                # An export that was killed behind its last rename is whole, as is seen below, and not written twice.
                if code == 0 or (step == 1 and f"{folder / 'export'} exists already" in said):
                    break
                self.judge(code, said, trouble, flipped, folder, step)
                if step == 0 and self.rng.random() < FLIPPED:
                    path = flip_a_bit(folder / "run", self.rng)
                    if path is not None:
                        flipped.append(str(path.relative_to(folder)))
                        self.counts["(bit flipped)"] += 1
                if self.rng.random() < MOVED:
                    moved = folder.with_name(f"moved-{self.counts.total()}")
                    folder = Path(shutil.move(folder, moved))
                    self.counts["(moved)"] += 1
        for name, value in ended_with(folder).items():
            if value != self.calm[which][name]:
                sys.exit(f"conversion {number}: {name} differs from the undisturbed one; kept: {folder}")
        shutil.rmtree(folder.parent)

    def judge(self, code: int, said: str, trouble: Trouble, flipped: list[str], folder: Path, step: int) -> None:
        """A child that did not finish must have been killed, or have told in one line what it lacked."""
        self.counts["(clock)"] += trouble.clock != 0
        if code == -9:
            self.counts["export" if step else stage(folder / "run")] += 1
            return
        if trouble.address_bytes is not None and any(words in said for words in GAVE_UP):
            self.counts["(memory refused, a library ended the process)"] += 1
            return
        told = [line for line in said.splitlines() if line.startswith("attnedit: ")]
        starved = trouble.file_bytes is not None or trouble.address_bytes is not None
        if code != 2 or len(told) != 1 or "Traceback" in said:
            sys.exit(f"exit status {code} under {trouble.file_bytes=} {trouble.address_bytes=} {flipped=}:\n{said}")
        damaged = [path for path in flipped if str(folder / path) in told[0]]
        if damaged and trouble.file_bytes is None:  # else it may be the disk that refuses this file
            (folder / damaged[0]).unlink()  # as it says
            self.counts["(damage named, made again)"] += 1
        elif starved:
            self.counts["(disk refused)" if trouble.file_bytes is not None else "(memory refused)"] += 1
        else:
            sys.exit(f"refused without a reason, {flipped=}: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"ATTNEDIT_SAVE_SECONDS": "0.02", "OMP_NUM_THREADS": "2"}
    import attnedit.convert
    import attnedit.evaluate.plots  # noqa: F401

    began, conversions = time.monotonic(), 0
    place = Path(tempfile.mkdtemp(prefix="attnedit-soak-"))
    soak = Soak(options.seed, place)
    while soak.kills < options.kills:
        soak.disturbed(conversions)
        conversions += 1
        if sys.stderr.isatty():
            print(f"\r{soak.kills} kills, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    shutil.rmtree(place)
    print(f"{soak.kills} kills in {conversions} conversions, each ended with the same bits")
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.counts.items())))


if __name__ == "__main__":
    main()
