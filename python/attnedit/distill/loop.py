"""The one training loop: both phases, and training from scratch, supply only the loss of a step."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from attnedit.autograd import backward
from attnedit.checkpoint import atomic_write, read_arrays, read_lines, write_arrays
from attnedit.distill.optimizer import Optimizer
from attnedit.distill.schedule import Schedule
from attnedit.runtime import Event
from attnedit.tensor import Tensor

SAVE_SECONDS = 60.0

# One step's losses, by name; the first is the one to watch. Their sum is what the step descends.
Losses = dict[str, Tensor]
# Called after each finished step with (step, steps, tokens per second, the step's losses).
OnStep = Callable[[int, int, dict[str, float]], None]


class NotFinite(FloatingPointError):
    """A loss or a parameter became NaN or Inf; the last good state is kept."""


@dataclass(frozen=True)
class Saved:
    """Where a loop keeps its state, and how often. A state is written beside and renamed: never half there."""

    folder: Path
    every_seconds: float | None = field(default_factory=lambda: _save_seconds())  # None: as `due` says

    @property
    def path(self) -> Path:
        return self.folder / "state.safetensors"

    def due(self, since: float, took: float) -> bool:
        """Whether to write, so many seconds after the last time, which took so many. By default every minute, but not
        more of the time than a twentieth: the state of a large model takes as long as a step."""
        return since > (max(SAVE_SECONDS, 20 * took) if self.every_seconds is None else self.every_seconds)

    def write(self, optimizer: Optimizer, name: str) -> None:
        state = optimizer.state()
        for key, array in state.items():
            if not np.isfinite(array).all():
                raise NotFinite(
                    f"[{name}] {key} holds NaN or Inf after step {optimizer.steps}; the state before is kept"
                )
        write_arrays(self.path, state)

    def read(self, optimizer: Optimizer) -> None:
        if self.path.exists():
            optimizer.restore(read_arrays(self.path))


def _save_seconds() -> float | None:
    text = os.environ.get("ATTNEDIT_SAVE_SECONDS")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"ATTNEDIT_SAVE_SECONDS must be a number of seconds, got {text!r}")
    return seconds


@dataclass
class Metrics:
    """metrics.jsonl: a line per step. Lines that a killed run will write again go first."""

    path: Path | None

    def rewind(self, name: str, step: int) -> None:
        """Drops the lines of `name` from `step` on, and whatever a kill left half written."""
        if self.path is None or not self.path.exists():
            return
        rows = [row for row in read_lines(self.path) if isinstance(row.get("step"), int)]
        kept = [row for row in rows if row.get("name") != name or row["step"] <= step]
        atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def train(
    name: str,
    losses_of: Callable[[int], Losses],
    optimizer: Optimizer,
    schedule: Schedule,
    saved: Saved | None = None,
    metrics: Metrics | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Runs steps optimizer.steps .. schedule.steps - 1. losses_of(step) runs forward and backward of one step.

    Ctrl-C and SIGTERM save and are raised as KeyboardInterrupt. A step's losses are looked at while the next one
    computes.
    """
    if saved is not None:
        saved.read(optimizer)
    metrics = metrics or Metrics(None)
    metrics.rewind(name, optimizer.steps)
    last_saved, took = time.monotonic(), 0.0
    pending: tuple[int, float, Losses, Event] | None = None

    def finish(waiting: tuple[int, float, Losses, Event]) -> None:
        step, rate, losses, done = waiting
        done.synchronize()
        values = {key: float(loss.array[0]) for key, loss in losses.items()}
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        if bad:
            kept = f"; the last good state is {saved.path}" if saved is not None and saved.path.exists() else ""
            at = optimizer.first_not_finite()
            where = f"; the first bad parameter is {at}" if at else ""
            raise NotFinite(
                f"[{name}] {bad[0]} is {values[bad[0]]} at step {step + 1} of {schedule.steps}{where}{kept}"
            )
        metrics.write({"name": name, "step": step + 1, "rate": rate, **values})
        if on_step is not None:
            on_step(step + 1, schedule.steps, values)

    with deferred_interrupt() as interrupted:
        while optimizer.steps < schedule.steps and not interrupted():
            step = optimizer.steps
            rate = schedule.rate(step)
            losses = losses_of(step)
            optimizer.step(rate)
            done = Event()
            done.record()
            if pending is not None:
                finish(pending)
            pending = (step, rate, losses, done)
            if saved is not None and saved.due(time.monotonic() - last_saved, took):
                finish(pending)
                pending, begun = None, time.monotonic()
                saved.write(optimizer, name)
                last_saved = time.monotonic()
                took = last_saved - begun
        if pending is not None:
            finish(pending)
        if saved is not None:
            saved.write(optimizer, name)
        if interrupted():
            raise KeyboardInterrupt


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM inside only sets a flag, so that no step is cut in two. A second one interrupts at once."""
    pressed = False

    def press(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def descend(losses: Losses) -> Losses:
    """Runs the tape of a step's losses and lets go of it: what comes back holds values only."""
    backward(list(losses.values()))
    return {key: loss.detach() for key, loss in losses.items()}
