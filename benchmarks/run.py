"""Every kernel beside its peers and the machine's limits.

    python benchmarks/run.py                 everything but the long cases; lines go to benchmarks/results.csv
    python benchmarks/run.py attention       one kernel, or a step of benchmarks/flow
    python benchmarks/run.py --quick         the small cases once: are the answers right? No clock, nothing recorded.

Each library has its own process. Answers are compared before the clock starts; a wrong one, or a kernel of ours that
fails, ends with exit status 1, what cannot be run with 2. The torch peers need .venv-peer, as `make bench` makes it, or
ATTNEDIT_PEER_PYTHON, a Python with torch and transformers. ATTNEDIT_TRACEBACK: failures with their traceback.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from case import Case
from measure import HERE, Bench
from results import EXPLANATION, RESULTS, Refused, Row, append, show
from rich.console import Console

MODULES = {
    p.stem: f"{p.parent.name}.{p.stem}" for g in ("kernels/*.py", "flow/*_step.py") for p in sorted(HERE.glob(g))
}
LIMITS = HERE.parent / "build/cmake/benchmarks/limits"
console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)


def chosen(options: argparse.Namespace) -> dict[str, list[tuple[int, Case]]]:
    """The cases that were asked for, by kernel, with their places in CASES."""
    if unknown := [name for name in options.kernels if name not in MODULES]:
        raise Refused(f"[bench] no benchmark is called {', '.join(unknown)}; there are {', '.join(MODULES)}")
    kinds = ("small",) if options.quick else ("long", "usual") if options.long else ("usual", "long")
    found: dict[str, dict[str, list[tuple[int, Case]]]] = {kind: {} for kind in kinds}
    for kernel in options.kernels or MODULES:
        for index, case in enumerate(importlib.import_module(MODULES[kernel]).CASES):
            kind = "small" if options.quick else "long" if case.long else "usual"
            if options.case in case.name and (case.quick or not options.quick):
                found[kind].setdefault(kernel, []).append((index, case))
    wanted, *other = kinds
    if not found[wanted]:
        of = f" of {', '.join(options.kernels)}" if options.kernels else ""
        named = f" has {options.case!r} in its name" if options.case else ""
        others = sum(map(len, found[other[0]].values())) if other else 0
        hint = f"; {others} {'without' if options.long else 'with'} --long" if others else ""
        raise Refused(f"[bench] none of the {wanted} cases{of}{named or ' exists'}{hint}")
    return found[wanted]


class Progress:
    """Time left by what cases should cost beside each other, and what those so far did."""

    def __init__(self, cases: list[tuple[Case, int]]) -> None:
        self.costs, self.done, self.began = [cost(*case) for case in cases], 0, time.monotonic()

    def step(self, what: str) -> None:
        before, left = sum(self.costs[: self.done]), sum(self.costs[self.done :])
        seconds = time.monotonic() - self.began
        # The guess counts as if it had been right for a minute.
        rate = (seconds + 60) / (before + 60)
        self.done += 1
        console.print(
            f"[{self.done}/{len(self.costs)}] {clock(seconds)}, about {clock(left * rate)} left: {what}", markup=False
        )


def cost(case: Case, torch_sides: int) -> float:
    """Seconds, roughly: a usual processor's rates, a peer that takes three times as long."""
    once = case.work / {"fma": 3e11, "pairs": 5e11}.get(case.limit, 3e10)
    ours = 9 * once if case.peers or once < 0.5 else 4 * once
    return 2 + ours + torch_sides * (0.5 + 3 * once * (3.5 if 3 * once > 0.5 else 9))


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run(options: argparse.Namespace) -> bool:
    """Whether all answers were right."""
    cases = chosen(options)
    if options.limits != LIMITS and not options.limits.exists():
        raise Refused(
            f"[bench] --limits must be the program that make bench builds, got {options.limits}: no such file"
        )
    if not options.quick:
        append([], options.results)  # refuses before the work, not behind it
    bench = Bench(options.limits, options.quick, console)
    if options.limits != LIMITS and (machine := bench.machine(bench.about["threads"])):
        machine.registers()  # what is no such program is told before the work
    console.print(*(f"{k} {v}" for k, v in bench.about.items()), f"load {os.getloadavg()[0]:.2f}", sep="; ")
    if not bench.peer_python:
        console.print("no .venv-peer and no ATTNEDIT_PEER_PYTHON: our kernels alone, without torch")
    progress = Progress(
        [
            (case, sum(side.name.startswith("torch") for side in bench.sides_of(case)))
            for c in cases.values()
            for _, case in c
        ]
    )
    try:
        for kernel, those in cases.items():
            rows: list[Row] = []
            for index, case in those:
                if not options.quick:
                    progress.step(f"{kernel}, {case.name}, {case.direction}")
                new = bench.measure(MODULES[kernel], index, case)
                rows += new
                if new:
                    append(new, options.results)
            bench.close()
            if rows:
                show(kernel, rows, console)
    finally:
        bench.close()
    if not options.quick:
        console.print(EXPLANATION)
        console.print(*(f"limits with {n} threads, the best: {m.best}" for n, m in bench.machines.items()), sep="\n")
        console.print(f"{clock(time.monotonic() - progress.began)} in all; lines are in {options.results}")
    return not bench.wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", help=f"among {', '.join(MODULES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small cases, once, nothing timed or recorded")
    parser.add_argument("--long", action="store_true", help="the long cases instead of the usual ones")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--limits", type=Path, default=LIMITS, help="the program that measures them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that lines are appended to")
    try:
        sys.exit(0 if run(parser.parse_args()) else 1)
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("[bench] stopped; what was measured is recorded", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
