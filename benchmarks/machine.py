"""What this machine can do, as benchmarks/limits.cc measures it."""

import json
import subprocess
import time
from pathlib import Path

from results import Refused

Rates = dict[str, float]  # GFLOP/s of fma and pairs, GB/s of read, copy and mixed
FRESH = 60  # seconds for which what registers can do is not measured again


class Machine:
    def __init__(self, program: Path) -> None:
        self.program = program
        self.best: dict[int, Rates] = {}  # by threads: neighbours only take from it
        self._until: dict[int, float] = {}

    def measure(self, threads: int) -> Rates:
        """At this moment; empty where there is no program."""
        if not self.program.exists():
            return {}
        done = subprocess.run([self.program, str(threads)], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or "no word").splitlines()[-1]
            raise Refused(f"[bench] {self.program} failed: {said}")
        found: Rates = {k: v for k, v in json.loads(done.stdout).items() if k not in ("isa", "threads")}
        self.best[threads] = highest([self.best.get(threads, {}), found])
        self._until[threads] = time.monotonic() + FRESH
        return found

    def refresh(self, threads: int) -> None:
        if time.monotonic() >= self._until.get(threads, 0):
            self.measure(threads)


def highest(rates: list[Rates]) -> Rates:
    return {name: max(r.get(name, 0.0) for r in rates) for name in {name: 0 for r in rates for name in r}}
