"""python tests/fuzz/run.py SECONDS [TARGET ...]: a coverage-guided fuzzer over every parser, or those that are named.

Each target is a file beside this one: seeds(), one_input(data, folder) and, where the input has a form, mutated(data,
seed). An input may be refused by ValueError, OSError or MemoryError in one line; everything else ends the run, and the
input is left in build/fuzz/TARGET. What was found interesting stays there for the next run.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NO_TARGET = {"run", "mutate"}
MOST_BYTES = 2**31  # of a process's memory
LINE = 2000  # characters, with the file's path


def targets() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NO_TARGET)


def checked_input(target: Any, data: bytes, folder: Path) -> bool:
    """Whether it was read; a refusal must be a line."""
    try:
        target.one_input(data, folder)
    except (ValueError, OSError, MemoryError) as error:
        assert "\n" not in str(error) and len(str(error)) < LINE, f"no line: {str(error)[:LINE]!r}"
        return False
    return True


def fuzz(name: str, arguments: list[str]) -> None:
    """In this process, under atheris."""
    import atheris

    with atheris.instrument_imports(include=["attnedit", "yaml"]):
        target = importlib.import_module(f"fuzz.{name}")
    corpus = Path(arguments[-1])
    for i, seed in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:

        def mutator(data: bytes, most: int, seed: int) -> bytes:
            made = target.mutated(data, seed) if seed % 4 else None
            return made if made is not None and len(made) <= most else atheris.Mutate(data, most)

        custom = {"custom_mutator": mutator} if hasattr(target, "mutated") else {}
        atheris.Setup([name, *arguments], lambda data: checked_input(target, data, Path(folder)), **custom)
        atheris.Fuzz()


def main(seconds: int, chosen: list[str]) -> int:
    """A process for each target, one after the other; a line for each."""
    failed = 0
    for name in chosen or targets():
        folder = ROOT / "build" / "fuzz" / name
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        options = ["-timeout=60", f"-rss_limit_mb={MOST_BYTES >> 20}", "-max_len=65536", "-print_final_stats=1",
                   f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", str(folder / "corpus")]  # fmt: skip
        with (folder / "log").open("wb") as log:
            environment = os.environ | {"RUST_BACKTRACE": "0"}
            done = subprocess.run([sys.executable, __file__, "--one", name, *options], stderr=log, env=environment)
        text = (folder / "log").read_text(errors="replace")
        count = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)\s", text, re.M)
        inputs = int("".join(count[-1])) if count else 0
        failed += done.returncode != 0
        print(f"{name}: {inputs:,} inputs, {'nothing found' if done.returncode == 0 else f'FAILED, see {folder}/log'}")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.path[0] = str(ROOT / "tests")
    if sys.argv[1] == "--one":
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
