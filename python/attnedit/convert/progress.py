"""Progress with rate and time left: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY_SECONDS = 15.0

# (layer, step, steps, loss)
OnStep = Callable[[int, int, int, float], None]


class Progress:
    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str, sequence_length: int) -> Iterator[OnStep]:
        """Follows one phase; a step of a phase-1 layer counts for its layer only."""
        if self.quiet:
            yield lambda layer, step, steps, loss: None
        elif self.console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(name, total=None)

                def show(layer: int, step: int, steps: int, loss: float) -> None:
                    label = f"{name} layer {layer}" if name == "layer-wise" else name
                    bar.update(task, description=label, total=steps, completed=step, loss=f"{loss:.4f}")

                yield show
        else:
            yield self._lines(name)

    def _bar(self) -> Bar:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        return Bar(*columns, TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn(), console=self.console)

    def _lines(self, name: str) -> OnStep:
        said = time.monotonic()
        begun: tuple[float, int, int] | None = None

        def show(layer: int, step: int, steps: int, loss: float) -> None:
            nonlocal said, begun
            now = time.monotonic()
            if begun is None or begun[2] != layer:
                begun = (now, step, layer)
            if now - said < LINE_EVERY_SECONDS and step != steps:
                return
            said = now
            rate = (step - begun[1]) / max(now - begun[0], 1e-9)
            left = (steps - step) / rate if rate > 0 else 0.0
            label = f"{name} layer {layer}" if name == "layer-wise" else name
            self.say(f"{label}: step {step}/{steps}, loss {loss:.4f}, {rate:.1f} steps/s, {left:.0f} s left")

        return show
