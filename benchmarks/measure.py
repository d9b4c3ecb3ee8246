"""One case: every side's answers compared, then every side by the clock."""

import math
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from case import Case
from machine import Held, Machine, held_to
from process import Process, SideDied, SideFailed
from results import Refused, Row, three
from rich.console import Console

HERE = Path(__file__).parent
REPETITIONS, ROUNDS = 7, 2  # sides take turns
SLOW, FEW = 0.5, 3  # seconds, and the repetitions of what takes longer: peers, and ours where it is beside no peer
SLOWEST, FEWEST = 5.0, 2  # the same for peers
WARM = 2.0  # seconds up to which the memory of ours is measured in a second run, and a peer is timed behind its first
SETTLE = 0.12  # seconds before a side's turn: workers of the side before it spin for a while (OpenBLAS: 2^28 cycles)
HEAVY = 3e11  # operations from which on sides run one after the other, each alone in memory


class Side(NamedTuple):
    name: str  # "attnedit", or the peer's, which begins with its library
    kept: bool = False  # the allocator is told to keep its memory

    @property
    def process(self) -> tuple[str, bool]:
        return self.name.split()[0], self.kept


OURS = Side("attnedit")


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


def peer_python(installed: Path) -> str | None:
    """The Python that has torch and transformers, if there is one; what is named and has not is refused."""
    named = os.environ.get("ATTNEDIT_PEER_PYTHON")
    if not named and not installed.exists():
        return None
    python = named or str(installed)
    wanted = f"[bench] {'ATTNEDIT_PEER_PYTHON' if named else installed} must be a Python with torch and transformers"
    versions = "from importlib.metadata import version as v; print(v('torch'), v('transformers'))"
    try:
        subprocess.run([python, "-c", versions], capture_output=True, text=True, check=True)
    except OSError as error:
        raise Refused(f"{wanted}, got {python}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().split("\n")[-1] or f"exit status {error.returncode}"
        raise Refused(f"{wanted}, got {python}: {said}") from None
    return python


class Bench:
    def __init__(self, limits: Path, quick: bool, console: Console) -> None:
        self.limits_program, self.quick, self.console = limits, quick, console
        self.machines: dict[int, Machine] = {}  # by threads
        self.peer_python = peer_python(HERE.parent / ".venv-peer/bin/python")
        self.processes: dict[tuple[str, bool], Process] = {}
        self.wrong = False
        process = Process(sys.executable, kept=False)
        try:
            self.about = process.ask("about")
        except SideFailed as failed:
            raise Refused(str(failed) if str(failed).startswith("[") else f"[bench] attnedit: {failed}") from None
        finally:
            process.close()
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
        self.commit = commit.stdout.strip()

    def sides_of(self, case: Case) -> list[Side]:
        sides = [OURS]
        for peer in case.peers:
            if not peer.startswith("torch"):
                sides.append(Side(peer))
            elif self.peer_python:
                sides += [Side(peer), Side(peer, kept=True)] if case.kept and not self.quick else [Side(peer)]
        return sides

    def close(self) -> None:
        """Between kernels: their processes' memory is free then."""
        while self.processes:
            self.processes.popitem()[1].close()
        for machine in self.machines.values():
            machine.close()

    def measure(self, module: str, index: int, case: Case) -> list[Row]:
        """The lines of a case: none for --quick, nor where an answer is wrong."""
        kernel, threads = module.split(".")[-1], case.threads or self.about["threads"]
        sides, found, right = self.sides_of(case), {}, True
        heavy = case.arithmetic and case.work > HEAVY and not self.quick
        machine = self.machine(threads)
        lost = self.draw(module, index, sides)
        with tempfile.TemporaryDirectory() as folder:
            mine, theirs = Path(folder) / "ours.npz", Path(folder) / "theirs.npz"
            for side in sides:
                if side.process in lost or (side != OURS and OURS not in found):
                    continue
                if side.process not in self.processes and self.draw(module, index, [side]):
                    continue
                try:
                    found[side] = self.prepare(side, mine if side == OURS else theirs)
                    if heavy:
                        self.time(case, side, found[side], 0, machine)
                        self.processes[side.process].ask("release")
                except SideFailed as failed:
                    self.lose(side, failed, found)
                    continue
                for difference in differences(case, mine, mine if side == OURS else theirs):
                    self.tell(f"{kernel} {case.name} {case.direction}: {side.name}: {difference}")
                    right, self.wrong = False, True
        for left in () if heavy or self.quick else reversed(range(ROUNDS)):
            for side in list(found):
                try:
                    self.time(case, side, found[side], left, machine)
                except SideFailed as failed:
                    self.lose(side, failed, found)
        if self.quick and right and OURS in found:
            against = ", ".join(side.name for side in found if side != OURS) or "nobody"
            self.console.print(f"{kernel} {case.name} {case.direction}: right beside {against}")
        if self.quick or not right or OURS not in found:
            return []
        return self.rows(
            kernel, case, sides, found, threads, held_to(case, found[OURS]["samples"], found[OURS]["beside"], machine)
        )

    def machine(self, threads: int) -> Machine | None:
        if self.quick or not self.limits_program.exists():
            return None
        if threads not in self.machines:
            self.machines[threads] = Machine(self.limits_program, threads)
        return self.machines[threads]

    def draw(self, module: str, index: int, sides: list[Side]) -> set[tuple[str, bool]]:
        """The inputs, in all processes at once; returns those that could not."""
        lost, keys = set(), list(dict.fromkeys(side.process for side in sides))
        for key in keys:
            if key not in self.processes:
                python = self.peer_python if key[0] == "torch" else sys.executable
                assert python is not None
                self.processes[key] = Process(python, key[1])
            self.processes[key].send("draw", library=key[0], module=module, case=index)
        for key in keys:
            try:
                self.processes[key].receive()
            except SideFailed as failed:
                self.lose(Side(*key), failed, {})
                lost.add(key)
        return lost

    def prepare(self, side: Side, answers: Path) -> dict[str, Any]:
        found = self.processes[side.process].ask(
            "prepare", side=side.name, answers=str(answers), again_below=WARM if side == OURS else SLOW
        )
        seconds = found["samples"][-1]
        # The first was no warm-up's, but where it is one of three it cannot move their median far.
        counted = found["samples"] if side != OURS and seconds > WARM else found["samples"][1:]
        return found | {"seconds": seconds, "samples": counted, "others": 0.0, "wall": 0.0, "beside": []}

    def tell(self, what: str) -> None:
        self.console.print(what, style="red", markup=False, highlight=False)

    def lose(self, side: Side, failed: SideFailed, found: dict[Side, Any]) -> None:
        """A side that failed is told; where its process died, what else was prepared there is lost."""
        self.tell(f"{side.name}{' (kept)' if side.kept else ''} failed: {failed}")
        self.wrong |= side == OURS
        gone = {side}
        if isinstance(failed, SideDied):
            self.processes.pop(side.process).close()
            gone |= {other for other in found if other.process == side.process}
        for other in gone & set(found):
            if other == OURS or not found[other]["samples"]:
                del found[other]

    def time(self, case: Case, side: Side, found: dict[str, Any], rounds_left: int, machine: Machine | None) -> None:
        """Its share of the repetitions that are to come; before each of ours what memory can do, where it matters."""
        if side.process not in self.processes:
            return  # it failed behind some samples
        beside = machine if side == OURS and case.memory else None
        if beside and not found["beside"]:
            found["samples"] = []
        for _ in range(1 if rounds_left else 2):  # a first run that loads code is no measure of what is slow
            wanted = REPETITIONS
            if side != OURS and found["seconds"] > SLOWEST:
                wanted = FEWEST
            elif found["seconds"] > SLOW and (side != OURS or not case.peers):
                wanted = FEW
            missing = wanted - len(found["samples"])
            if missing <= 0:
                return
            time.sleep(SETTLE)
            repetitions = math.ceil(missing / (1 + rounds_left))
            for _ in range(repetitions if beside else 1):
                if beside:
                    found["beside"].append(beside.memory())
                timed = self.processes[side.process].ask(
                    "time", side=side.name, repetitions=1 if beside else repetitions
                )
                found["seconds"] = min(timed["samples"])
                for key in ("samples", "others", "wall"):
                    found[key] += timed[key]

    def rows(
        self, kernel: str, case: Case, sides: list[Side], found: dict[Side, Any], threads: int, limit: Held
    ) -> list[Row]:
        ours, about = found[OURS], self.about
        median, least, most = three(ours["samples"])
        others = sum(f["others"] for f in found.values()) / sum(f["wall"] for f in found.values())
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows = []
        for side in sides[1:] or [None]:
            peer = found.get(side) if side else None
            times = three(peer["samples"]) if peer else (None, None, None)
            allocator = "" if side is None else "kept" if side.kept else "shipped"
            rows.append(Row(
                now, self.commit, about["processor"], about["isa"], threads, about["blas"], kernel, case.name,
                case.direction, case.dtype, len(ours["samples"]), median, least, most, *limit,
                mib(ours["counted"]), mib(ours["extra"]), side.name if side else "", allocator, *times,
                round(times[0] / median, 3) if times[0] else None, mib(peer["extra"]) if peer else None,
                round(others, 2), len(peer["samples"]) if peer else None,
            ))  # fmt: skip
        return rows


def mib(size: float) -> float:
    return round(size / 2**20, 2)
