"""A command of attnedit in a forked child that something happens to.

Forking spares every child the imports. The parent never uses a stream, so the child's threads are its own.
"""

import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What changes files, of Python's audit events. A safetensors file is touched before its writer, chmod comes behind.
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "shutil.copyfile"}
MEAN_DELAY = 0.004  # seconds from such an event to the kill: into what is between it and the next one
YEAR = 365 * 86400.0


@dataclass
class Trouble:
    """kinds: how often each kind of change of a file is in an undisturbed run. density: how likely a kill is at a kind
    that a run has once; where it has n of them, an n-th of that at each, so that rare moments are met as often."""

    seed: int
    density: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    file_bytes: int | None = None  # the system refuses longer files
    address_bytes: int | None = None  # and more memory than this beyond what is there
    clock: float = 0.0  # seconds that the clock is wrong by


def run(command: list[str], folder: Path, trouble: Trouble) -> tuple[int, str, Counter[str]]:
    """The exit status (-9: killed), what was said on stderr, and the kinds of changes that were made."""
    said, counted = folder.parent / "said", folder.parent / "counted"
    ready, mark = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        _child(command, folder, trouble, mark, said, counted)
    os.close(mark)
    rng = random.Random(trouble.seed + 1)
    if os.read(ready, 1):  # nothing where the child has ended
        time.sleep(rng.expovariate(1 / MEAN_DELAY))
        os.kill(child, signal.SIGKILL)
    os.close(ready)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kinds = Counter(counted.read_text().splitlines()) if code == 0 else Counter[str]()
    return code, said.read_text(), kinds


def apart(work: Callable[[], object]) -> None:
    """Does work in a child: it may use a stream."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def _child(command: list[str], folder: Path, trouble: Trouble, mark: int, said: Path, counted: Path) -> None:
    code: object = 1
    met: list[str] = []
    try:
        with said.open("w", buffering=1) as errors:
            os.dup2(errors.fileno(), 2)  # libraries that give up write there
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _watch(folder, trouble, mark, met)
            _limit(trouble)
            sys.argv = ["attnedit", *command]
            from attnedit.cli import main

            try:
                main()
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        counted.write_text("\n".join(met))
    finally:
        os._exit(code if isinstance(code, int) else 0)


def _watch(folder: Path, trouble: Trouble, mark: int, met: list[str]) -> None:
    rng, inside = random.Random(trouble.seed), str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not path.startswith(inside) or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = re.sub(r"[0-9a-f]{16}|[0-9]+", "#", path[len(inside) :])
        kind = f"{event} {re.sub('[.]partial/.*', '.partial/*', path)}"  # a folder being written is one
        met.append(kind)
        if rng.random() * max(1, trouble.kinds[kind]) < trouble.density:
            os.write(mark, b"!")

    sys.addaudithook(hook)


def _limit(trouble: Trouble) -> None:
    if trouble.clock:
        real = time.time
        time.time = lambda: real() + trouble.clock
    if trouble.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.file_bytes, resource.RLIM_INFINITY))
    if trouble.address_bytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + trouble.address_bytes, resource.RLIM_INFINITY))
