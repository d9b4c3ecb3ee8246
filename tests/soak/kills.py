"""Kills conversions and exports at random moments and compares what they end with, bit for bit, with undisturbed ones.

    python tests/soak/kills.py --kills 100 --seed 0

A child is killed after a random number of changes in its folder, so that kills fall where files are written: while the
layers are initialised, in the store of hidden states, in the training states of both phases, in the evaluations, in the
student and in the export. Every so often the whole folder is moved and continued there, or a bit of a hidden state is
flipped. Ends with exit status 1 at the first difference.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import write_recipe

TARGETS = (
    {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8},
    {"attention": "gate_swa", "sliding_window": 8},
)
FORMATS = ("deepseek_v3", "lfm3")
MOST_CHANGES, MOST_DELAY = 150, 0.02  # files; seconds
MOVED, FLIPPED = 0.1, 0.1  # of the kills

# What a kill interrupted, by the first of these names that is not there yet.
STAGES = {
    "reading": "provenance.json", "edit": "edit/config.json", "layerwise": "evaluations/layerwise.json",
    "modelwise": "evaluations/modelwise.json", "student": "student", "report": "report.md",
}  # fmt: skip


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> (time of change, size) of everything there, as far as it still is."""
    found = {}
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


def attnedit(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from attnedit.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"ATTNEDIT_SAVE_SECONDS": "0.02", "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    if process.returncode != 0:
        sys.exit(f"exit status {process.returncode}: {said}")


def killed(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> bool:
    """Kills the process behind a random number of changes in folder; False where it had ended by itself."""
    changes, seen = rng.randint(0, MOST_CHANGES), files_of(folder)
    while process.poll() is None and changes > 0:
        time.sleep(0.001)
        now = files_of(folder)
        changes, seen = changes - len(now.items() ^ seen.items()), now
    time.sleep(rng.uniform(0, MOST_DELAY))
    if process.poll() is not None:
        finish(process)
        return False
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return True


def flip_a_bit(run: Path, rng: random.Random) -> bool:
    """In a hidden state on disk, where there is one."""
    stores = sorted((run / "layerwise" / "activations").glob("*.safetensors"))
    if not stores:
        return False
    path = rng.choice(stores)
    at = rng.randrange(path.stat().st_size // 2, path.stat().st_size)  # behind the header and the stamps
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    return True


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]}


def disturbed(folder: Path, form: str, rng: random.Random, counts: collections.Counter[str]) -> Iterator[None]:
    """One conversion and its export under kills; yields at each of them."""
    place = folder
    while killed(attnedit("convert", place / "recipe.yaml"), place, rng):
        run = place / "run"
        counts[next((stage for stage, name in STAGES.items() if not (run / name).exists()), "end")] += 1
        if rng.random() < FLIPPED and flip_a_bit(run, rng):
            counts["(then a bit flipped)"] += 1
        if rng.random() < MOVED:
            place = Path(shutil.move(place, f"{folder}-{counts.total()}"))
            counts["(then moved)"] += 1
        yield
    while killed(attnedit("export", place / "run", "--format", form, "--out", place / "export"), place, rng):
        counts["export"] += 1
        yield
    if place != folder:
        shutil.move(place, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts, conversions = random.Random(options.seed), collections.Counter[str](), 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attnedit-soak-") as name:
        calm = []
        for target, form in zip(TARGETS, FORMATS, strict=True):
            folder = Path(name) / f"calm-{form}"
            folder.mkdir()
            finish(attnedit("convert", write_recipe(folder, target=target)))
            finish(attnedit("export", folder / "run", "--format", form, "--out", folder / "export"))
            calm.append({part: weights(folder / part) for part in ("run/student", "export")})
        done = 0
        while done < options.kills:
            which = conversions % len(TARGETS)
            folder = Path(name) / f"disturbed-{conversions}"
            folder.mkdir()
            write_recipe(folder, target=TARGETS[which])
            for _ in disturbed(folder, FORMATS[which], rng, counts):
                done += 1
                if sys.stderr.isatty():
                    print(f"\r{done} kills, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
            for part, wanted in calm[which].items():
                if weights(folder / part) != wanted:
                    sys.exit(f"conversion {conversions}: {part} differs from the undisturbed one (seed {options.seed})")
            shutil.rmtree(folder)
            conversions += 1
    print(f"{done} kills in {conversions} conversions, each ended with the same bits; {time.monotonic() - began:.0f} s")
    print(", ".join(f"{stage} {count}" for stage, count in counts.items()))


if __name__ == "__main__":
    main()
