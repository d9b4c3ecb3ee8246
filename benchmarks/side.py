"""One side of a comparison, in a process of its own: a line of JSON asks, a line of JSON answers.

    {"do": "draw", "library": "torch", "module": "kernels.attention", "case": 3}
    {"do": "prepare", "side": "torch sdpa", "answers": "/tmp/x.npz", "again_below": 0.5}
    {"do": "time", "side": "torch sdpa", "repetitions": 2}
    {"do": "release"}

draw makes the inputs of a case, unless the case before had the same; prepare runs it, writes its answers and tells
the extra memory; time runs what is prepared by the clock; release gives all memory but the inputs back. What fails is
answered by {"failed": why, in one line}.
"""

import ctypes
import gc
import importlib
import json
import math
import os
import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Case, Run

SHORTEST = 0.005  # seconds that one measurement lasts at least, by calling again
BRIEF = 0.05  # seconds up to which a turn begins with a call off the clock: caches hold the other side's numbers
MOST_NUMBERS = 1 << 22  # of one answer that are compared


@dataclass(frozen=True)
class Library:
    """What differs between the libraries that are measured."""

    put: Callable[[Array], Any]  # an input into the library's own, aligned memory
    wait: Callable[[], None]
    give_back: Callable[[], None]  # kept memory, to the system
    set_threads: Callable[[int | None], None]
    counted: Callable[[], tuple[int, int]]  # bytes in use now, and at most since the last call


def attnedit() -> Library:
    from attnedit import _core, runtime

    cores = runtime.get_num_threads()

    def put(array: Array) -> Array:
        made: Array = _core.empty(array.shape, array.dtype)
        _core.upload(array, made)
        return made

    def give_back() -> None:
        runtime.synchronize()
        runtime.empty_cache()

    def counted() -> tuple[int, int]:
        now = runtime.memory_allocated(), runtime.max_memory_allocated()
        runtime.reset_peak_memory_stats()
        return now

    return Library(put, runtime.synchronize, give_back, lambda n: runtime.set_num_threads(n or cores), counted)


def torch() -> Library:
    import torch

    cores = torch.get_num_threads()
    return Library(
        lambda array: torch.from_numpy(array).clone(), lambda: None, lambda: None,
        lambda n: torch.set_num_threads(n or cores), lambda: (0, 0),
    )  # fmt: skip


def numpy() -> Library:
    return Library(lambda array: array, lambda: None, lambda: None, lambda _: None, lambda: (0, 0))


LIBRARIES = {"attnedit": attnedit, "torch": torch, "numpy": numpy}


def resident(key: str) -> int:
    """Bytes: VmRSS now, or VmHWM, the most since `forget_most`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(key + ":")[1].split()[0]) * 1024


def forget_most() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def busy_seconds() -> tuple[float, float]:
    """Core-seconds worked so far: by everyone on the machine, by this process."""
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    own = resource.getrusage(resource.RUSAGE_SELF)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def as_arrays(values: Mapping[str, Any]) -> dict[str, Array]:
    """Once they are computed; bfloat16 widened."""

    def widened(value: Any) -> Array:
        if not isinstance(value, np.ndarray):
            return np.asarray(value.float())
        return value if value.dtype.kind == "f" else value.astype(np.float32)

    return {name: widened(value) for name, value in values.items()}


def size_beside(answers: Mapping[str, Array], x: Mapping[str, Any]) -> int:
    """Bytes of the answers that are not inputs changed in place."""
    places = {np.asarray(value).ctypes.data for value in x.values()}
    return sum(a.nbytes for a in answers.values() if a.ctypes.data not in places)


class Side:
    def __init__(self) -> None:
        self.library: Library | None = None
        self.described: Any = None
        self.case: Case | None = None
        self.x: dict[str, Any] = {}
        self.runs: dict[str, Run] = {}
        self.seconds: dict[str, float] = {}  # of a call, by side

    def draw(self, library: str, module: str, case: int) -> dict[str, Any]:
        self.library = self.library or LIBRARIES[library]()
        described = importlib.import_module(module)
        before, self.case = self.case, described.CASES[case]
        self.runs.clear()
        if described is not self.described or before is None or before.shape != self.case.shape:
            self.x.clear()
            inputs = described.inputs(self.case)
            self.x = {name: self.library.put(inputs.pop(name)) for name in list(inputs)}
        self.described = described
        self.library.set_threads(self.case.threads)
        return {}

    def prepare(self, side: str, answers: str, again_below: float) -> dict[str, Any]:
        assert self.library is not None and self.case is not None
        library, case = self.library, self.case
        samples: list[float] = []
        make = self.described.ours if side == "attnedit" else self.described.PEERS[side]

        def first() -> tuple[dict[str, Array], int, int]:
            """Answers, and bytes above inputs and answers: counted by the library, resident in the process."""
            self.give_back()
            before, _ = resident("VmRSS"), forget_most()
            counted = library.counted()[0]
            run = self.runs[side] = make(case, self.x)
            samples.clear()
            for _ in range(2 if case.steps else 1):
                began = time.perf_counter()
                found = run()
                library.wait()
                samples.append(time.perf_counter() - began)
            self.seconds[side] = samples[-1]
            got = as_arrays(found)
            given = size_beside(got, self.x)
            return got, library.counted()[1] - counted - given, resident("VmHWM") - before - given

        got, counted, grown = first()
        np.savez(answers, **{n: a.ravel()[:: max(1, -(-a.size // MOST_NUMBERS) | 1)] for n, a in got.items()})
        if self.seconds[side] < again_below:  # the first run also loaded code and tables: measure another
            del got
            del self.runs[side]
            _, counted, grown = first()
        return {"samples": samples, "extra": max(0, grown), "counted": max(0, counted)}

    def time(self, side: str, repetitions: int) -> dict[str, Any]:
        assert self.library is not None
        run, seconds = self.runs[side], self.seconds[side]
        calls = max(1, math.ceil(SHORTEST / seconds))
        if seconds < BRIEF:
            run()
            self.library.wait()
        samples = []
        started, before = time.perf_counter(), busy_seconds()
        for _ in range(repetitions):
            began = time.perf_counter()
            for _ in range(calls):
                run()
            self.library.wait()
            samples.append((time.perf_counter() - began) / calls)
        self.seconds[side] = min(samples)
        wall, after = time.perf_counter() - started, busy_seconds()
        others = (after[0] - before[0]) - (after[1] - before[1])
        return {"samples": samples, "others": max(0.0, others), "wall": wall}

    def release(self) -> dict[str, Any]:
        self.runs.clear()
        self.give_back()
        return {}

    def give_back(self) -> None:
        assert self.library is not None
        gc.collect()
        self.library.give_back()
        ctypes.CDLL(None).malloc_trim(0)


def processor(cpuinfo: str) -> str:
    """Its name, which clouds cut to a brand, the numbers of its generation, and the widest products that it has."""
    said = dict(map(str.strip, line.split(":", 1)) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    if "model name" not in said:
        return platform.machine()
    numbers = [f"{word} {said[key]}" for word, key in
               (("family", "cpu family"), ("model", "model"), ("stepping", "stepping")) if key in said]  # fmt: skip
    flags = said.get("flags", "").split()
    best = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    return " ".join((said["model name"], *numbers, best)).strip()


def about() -> dict[str, str | int]:
    """What the results' columns say of our build."""
    from threadpoolctl import threadpool_info

    from attnedit import _core

    return {
        "processor": processor(Path("/proc/cpuinfo").read_text()), "isa": _core.isa(), "threads": _core.num_threads(),
        "blas": next((library["architecture"] for library in threadpool_info() if "architecture" in library), "none"),
    }  # fmt: skip


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    side = Side()
    does: dict[str, Callable[..., dict[str, Any]]] = {
        "about": about, "draw": side.draw, "prepare": side.prepare, "time": side.time, "release": side.release,
    }  # fmt: skip
    for line in sys.stdin:
        request = json.loads(line)
        named = request.get("side")
        try:
            answer = does[request.pop("do")](**request)
        except Exception as error:
            side.runs.pop(named, None)
            if "ATTNEDIT_TRACEBACK" in os.environ:
                traceback.print_exc()
            said = str(error).strip().split("\n")[0]
            clear = said.startswith("[")  # as our own messages are
            answer = {"failed": said if clear else f"{type(error).__name__}: {said}"}
        replies.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
