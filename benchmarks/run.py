"""Every kernel beside its peers and the machine's limits.

    python benchmarks/run.py                 everything but the long cases; lines go to benchmarks/results.csv
    python benchmarks/run.py attention       one kernel, or a step of benchmarks/flow
    python benchmarks/run.py --quick         the small cases once: are the answers right?

Each side has its own process. Answers are compared before the clock starts; a wrong one ends with exit status 1. The
torch peers need .venv-peer, as `make bench` makes it, or ATTNEDIT_PEER_PYTHON, a Python with torch and transformers.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from case import Case
from results import EXPLANATION, RESULTS, Row, append, show, three
from rich.console import Console

HERE = Path(__file__).parent
MODULES = {
    p.stem: f"{p.parent.name}.{p.stem}" for g in ("kernels/*.py", "flow/*_step.py") for p in sorted(HERE.glob(g))
}
ROUNDS, PER_ROUND = 4, 2  # sides take turns
FEW = 3  # repetitions of what takes longer than SLOW
SLOW = 2.0  # seconds
SETTLE = (
    0.15  # seconds before a side's turn: the workers of the side before it spin for a while (OpenBLAS: 2^28 cycles)
)
HEAVY = 3e11  # operations from which on sides run one after the other, each alone in memory
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip

console = Console(width=None if sys.stdout.isatty() else 180)


class SideFailed(Exception):
    pass


class Process:
    """A side.py of one library and one allocator setting."""

    def __init__(self, python: str, kept: bool) -> None:
        # An environment may hold OpenBLAS to an older processor; nobody is measured under that.
        free = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "MALLOC_", "GLIBC_TUNABLES"))}
        self.process = subprocess.Popen(
            [python, str(HERE / "side.py")], env=free | (KEPT if kept else {}), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do} | request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SideFailed from None
        line = self.process.stdout.readline()
        if not line:
            raise SideFailed
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def differences(case: Case, ours: Path, theirs: Path) -> list[str]:
    """What a peer's answers say against ours."""
    found = []
    with np.load(ours) as mine, np.load(theirs) as other:
        if not other.files:
            found.append("no answers")
        for name in other.files:
            a, b = mine[name].ravel(), other[name].ravel()
            if a.shape != b.shape:
                found.append(f"{name}: {a.shape} numbers against {b.shape}")
                continue
            apart, most = np.abs(a - b).max(), np.abs(b).max()
            if not apart <= case.tolerance * most:
                found.append(f"{name} apart by {apart:.2e}, its greatest number is {most:.2e}")
    return found


class Bench:
    def __init__(self, limits: Path, quick: bool) -> None:
        self.limits_program, self.quick = limits, quick
        installed = HERE.parent / ".venv-peer/bin/python"  # by make bench
        self.peer_python = os.environ.get("ATTNEDIT_PEER_PYTHON") or (str(installed) if installed.exists() else None)
        self.limits: dict[int, dict[str, float]] = {}
        self.processes: dict[tuple[str, bool], Process] = {}
        self.wrong = False
        with contextlib.closing(Process(sys.executable, kept=False)) as process:
            self.about = process.ask("about")
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
        self.commit = commit.stdout.strip()

    def measure_limits(self) -> None:
        """The best so far: neighbours can only take from it."""
        if not self.limits_program.exists():
            return
        done = subprocess.run([self.limits_program], capture_output=True, text=True, check=True)
        for line in map(json.loads, done.stdout.splitlines()):
            best = self.limits.setdefault(line.pop("threads"), {})
            best |= {k: max(v, best.get(k, 0.0)) for k, v in line.items() if k != "isa"}

    def sides_of(self, case: Case) -> list[tuple[str, bool]]:
        """(library's name, allocator told to keep its memory), ours first."""
        sides = [("attnedit", False)]
        for peer in case.peers:
            if not peer.startswith("torch"):
                sides.append((peer, False))
            elif self.peer_python:
                sides += [(peer, False)] if self.quick else [(peer, False), (peer, True)]
        return sides

    def process(self, side: tuple[str, bool]) -> Process:
        if side not in self.processes:
            python = self.peer_python if side[0].startswith("torch") else sys.executable
            assert python is not None
            self.processes[side] = Process(python, kept=side[1])
        return self.processes[side]

    def close(self, side: tuple[str, bool]) -> None:
        self.processes.pop(side).close()

    def measure(self, kernel: str, index: int, case: Case, folder: Path) -> list[Row]:
        sides, heavy = self.sides_of(case), case.arithmetic and case.work > HEAVY
        found: dict[tuple[str, bool], dict[str, Any]] = {}
        right = True
        mine = folder / "attnedit.npz"
        for side in sides:
            theirs = folder / ("attnedit.npz" if side[0] == "attnedit" else "peer.npz")
            try:
                process = self.process(side)
                found[side] = process.ask(
                    "prepare", module=MODULES[kernel], case=index, side=side[0], answers=str(theirs)
                ) | {"samples": [], "others": 0.0, "wall": 0.0}
                for difference in differences(case, mine, theirs):
                    console.print(f"[red]{kernel} {case.name} {case.direction}: {side[0]}: {difference}")
                    right, self.wrong = False, True
                if heavy and not self.quick:
                    self.time(found[side], process, PER_ROUND * ROUNDS)
            except SideFailed:
                console.print(f"[red]{kernel} {case.name} {case.direction}: {side[0]} failed")
                self.wrong = True
            if heavy or side not in found:
                self.close(side)
        if self.quick:
            for side in found:
                self.time(found[side], self.process(side), 1)
        elif not heavy:
            for _, side in itertools.product(range(ROUNDS), found):
                self.time(found[side], self.process(side), PER_ROUND)
        return self.rows(kernel, case, sides, found) if right else []

    def time(self, found: dict[str, Any], process: Process, repetitions: int) -> None:
        if found["seconds"] > SLOW:
            repetitions = min(repetitions, FEW - len(found["samples"]))
        if repetitions <= 0:
            return
        time.sleep(SETTLE)
        timed = process.ask("time", repetitions=repetitions)
        for key in ("samples", "others", "wall"):
            found[key] += timed[key]

    def rows(self, kernel: str, case: Case, sides: list[tuple[str, bool]], found: dict[Any, Any]) -> list[Row]:
        if sides[0] not in found:
            return []
        ours = found[sides[0]]
        threads = case.threads or self.about["threads"]
        rate = self.limits.get(threads, {}).get(case.limit)
        median, least, most = three(ours["samples"])
        others = sum(f["others"] for f in found.values()) / sum(f["wall"] for f in found.values())
        now, about = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), self.about
        share = None if rate is None else round(case.work / median / rate * 1e-6, 4)
        rows = []
        for side in sides[1:] or [None]:
            peer = found.get(side)
            times = three(peer["samples"]) if peer else (None, None, None)
            allocator = "" if side is None else "kept" if side[1] else "shipped"
            rows.append(Row(
                now, self.commit, about["processor"], about["isa"], threads, about["blas"], kernel, case.name,
                case.direction, case.dtype, len(ours["samples"]), median, least, most, case.limit, rate, share,
                mib(ours["counted"]), mib(ours["extra"]), side[0] if side else "", allocator, *times,
                round(times[0] / median, 3) if times[0] else None, mib(peer["extra"]) if peer else None,
                round(others, 2),
            ))  # fmt: skip
        return rows


def mib(size: float) -> float:
    return round(size / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", help=f"among {', '.join(MODULES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small cases, once, nothing recorded")
    parser.add_argument("--long", action="store_true", help="the long cases instead of the usual ones")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--limits", type=Path, default=HERE.parent / "build/cmake/benchmarks/limits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that lines are appended to")
    options = parser.parse_args()
    if unknown := set(options.kernels) - set(MODULES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    if not options.quick:
        append([], options.results)  # refuses before the work, not behind it
    bench = Bench(options.limits, options.quick)
    console.print(*(f"{k} {v}" for k, v in bench.about.items()), f"load {os.getloadavg()[0]:.2f}", sep="; ")
    if not bench.peer_python:
        console.print("no .venv-peer and no ATTNEDIT_PEER_PYTHON: our kernels beside the limits, without torch")
    for kernel in options.kernels or MODULES:
        if not options.quick:
            bench.measure_limits()
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            for index, case in enumerate(importlib.import_module(MODULES[kernel]).CASES):
                wanted = case.quick if options.quick else case.long == options.long
                if wanted and options.case in case.name:
                    new = bench.measure(kernel, index, case, Path(folder))
                    rows += new
                    if not options.quick:
                        append(new, options.results)
        for side in list(bench.processes):
            bench.close(side)
        if rows:
            show(kernel, rows, console)
    if not options.quick:
        console.print(EXPLANATION)
        console.print(*(f"limits with {n} threads: {r}" for n, r in bench.limits.items()), sep="\n")
    sys.exit(1 if bench.wrong else 0)


if __name__ == "__main__":
    main()
