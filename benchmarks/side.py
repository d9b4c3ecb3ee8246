"""One side of a comparison, in a process of its own: a line of JSON asks, a line of JSON answers.

    {"do": "prepare", "module": "kernels.attention", "case": 3, "side": "torch sdpa", "answers": "/tmp/x.npz"}
    {"do": "time", "repetitions": 2}

prepare runs the case once, writes its answers and tells the extra memory; time runs what is prepared by the clock.
"""

import ctypes
import gc
import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Run

SHORTEST = 0.005  # seconds that one measurement lasts at least, by calling again
SLOW = 2.0  # seconds from which on a call's memory is measured in its first run
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
        self.run: Run | None = None
        self.seconds = 0.0

    def prepare(self, module: str, case: int, side: str, answers: str) -> dict[str, Any]:
        described = importlib.import_module(module)
        chosen = described.CASES[case]
        self.library = self.library or LIBRARIES[side.split()[0].rstrip(",")]()
        library, self.run = self.library, None
        library.set_threads(chosen.threads)
        inputs = described.inputs(chosen)
        x = {name: library.put(inputs.pop(name)) for name in list(inputs)}
        make = described.ours if side == "attnedit" else described.PEERS[side]

        def first() -> tuple[dict[str, Array], int, int]:
            """Answers, and bytes above inputs and answers: counted by the library, resident in the process."""
            gc.collect()
            library.give_back()
            ctypes.CDLL(None).malloc_trim(0)
            before, _ = resident("VmRSS"), forget_most()
            counted = library.counted()[0]
            self.run = make(chosen, x)
            began = time.perf_counter()
            found = self.run()
            library.wait()
            self.seconds = time.perf_counter() - began
            got = as_arrays(found)
            given = size_beside(got, x)
            return got, library.counted()[1] - counted - given, resident("VmHWM") - before - given

        got, counted, grown = first()
        np.savez(answers, **{n: a.ravel()[:: max(1, -(-a.size // MOST_NUMBERS) | 1)] for n, a in got.items()})
        if self.seconds < SLOW:  # the first run also loaded code and tables: measure another
            del got
            self.run = None
            _, counted, grown = first()
        return {"seconds": self.seconds, "extra": max(0, grown), "counted": max(0, counted)}

    def time(self, repetitions: int) -> dict[str, Any]:
        assert self.run is not None and self.library is not None
        calls = max(1, math.ceil(SHORTEST / self.seconds))
        if self.seconds < SLOW:
            self.run()
            self.library.wait()
        samples = []
        started, before = time.perf_counter(), busy_seconds()
        for _ in range(repetitions):
            began = time.perf_counter()
            for _ in range(calls):
                self.run()
            self.library.wait()
            samples.append((time.perf_counter() - began) / calls)
        self.seconds = min(samples)
        wall, after = time.perf_counter() - started, busy_seconds()
        others = (after[0] - before[0]) - (after[1] - before[1])
        return {"samples": samples, "others": max(0.0, others), "wall": wall}


def about() -> dict[str, str | int]:
    """What the results' columns say of our build."""
    from threadpoolctl import threadpool_info

    from attnedit import _core

    processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "processor": processor.split(":")[1].strip(), "isa": _core.isa(), "threads": _core.num_threads(),
        "blas": next((library["architecture"] for library in threadpool_info() if "architecture" in library), "none"),
    }  # fmt: skip


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    side = Side()
    does: dict[str, Callable[..., dict[str, Any]]] = {"prepare": side.prepare, "time": side.time, "about": about}
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps(does[request.pop("do")](**request)) + "\n")


if __name__ == "__main__":
    main()
