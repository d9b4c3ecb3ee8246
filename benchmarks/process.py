"""A library under one allocator, in a process of its own: what run.py asks of side.py."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

SIDE = Path(__file__).parent / "side.py"
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip


class SideFailed(Exception):
    """In one line, why."""


class SideDied(SideFailed):
    """And with it what else its process had."""


class Process:
    def __init__(self, python: str, kept: bool) -> None:
        # An environment may hold OpenBLAS to an older processor; nobody is measured under that.
        free = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "MALLOC_", "GLIBC_TUNABLES"))}
        self.process = subprocess.Popen(
            [python, str(SIDE)], env=free | (KEPT if kept else {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def send(self, do: str, **request: Any) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive tells why
            self.process.stdin.write(json.dumps({"do": do} | request) + "\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SideDied(ending(self.process.wait()))
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise SideFailed(answer["failed"])
        return answer

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        self.send(do, **request)
        return self.receive()

    def close(self) -> None:
        self.process.kill()  # it holds nothing that must be saved, and may be deep in a run
        self.process.communicate()


def ending(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    why = ": out of memory?" if -status == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-status).name}{why}"
