"""What this machine can do, as benchmarks/limits.cc measures it."""

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from case import MEMORY, Case
from results import Refused

Rates = dict[str, float]  # GFLOP/s of fma and pairs; GB/s of read, copy and mixed
FRESH = 60  # seconds for which what registers can do is not measured again


class Machine:
    """With one number of threads."""

    def __init__(self, program: Path, threads: int) -> None:
        self.best: Rates = {}
        self._command, self._until = [str(program), str(threads)], 0.0
        self._process: subprocess.Popen[str] | None = None

    def registers(self) -> Rates:
        """The best so far: neighbours only take from it."""
        if time.monotonic() >= self._until:
            self._note(self._ask("registers"))
            self._until = time.monotonic() + FRESH
        return self.best

    def memory(self) -> Rates:
        """At this moment."""
        return self._note(self._ask("memory"))

    def _note(self, found: Rates) -> Rates:
        self.best |= {name: max(rate, self.best.get(name, 0.0)) for name, rate in found.items()}
        return found

    def _ask(self, what: str) -> Rates:
        pipe = subprocess.PIPE
        try:
            self._process = self._process or subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            print(what, file=self._process.stdin, flush=True)
            found = json.loads(self._process.stdout.readline())
            return {name: float(rate) for name, rate in found.items() if name != "isa"}
        except (OSError, ValueError) as error:
            said = self._process.communicate()[1].strip() if self._process else str(error)
            last = (said or "no word").splitlines()[-1]
            raise Refused(f"[bench] {self._command[0]} did not measure {what}: {last}") from None

    def close(self) -> None:
        """Gives its memory back until it is asked again."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Held(NamedTuple):
    """To what a case is held: which limit, its rate, and the share of it that is reached."""

    limit: str
    rate: float | None
    share: float | None


def held_to(case: Case, samples: list[float], beside: list[Rates], machine: Machine | None) -> Held:
    """The limit that takes longer, from seconds of ours and what memory could do before each."""
    if machine is None:
        return Held(case.limit, None, None)

    def of(limit: str, work: float) -> Held:
        rates = [r[limit] for r in beside] if limit in MEMORY else [machine.registers()[limit]] * len(samples)
        shares = [work * 1e-9 / seconds / rate for seconds, rate in zip(samples, rates, strict=True)]
        return Held(limit, round(statistics.median(rates), 2), round(statistics.median(shares), 4))

    found = [of(case.limit, case.work)] + ([of("read", case.read)] if case.read else [])
    return max(found, key=lambda held: held.share or 0.0)
