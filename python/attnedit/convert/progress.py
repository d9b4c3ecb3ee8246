"""Progress with rate and time left: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

LINE_EVERY_SECONDS = 15.0

# (layer, step, steps, loss)
OnStep = Callable[[int, int, int, float | None], None]
# (done, of how many)
OnCount = Callable[[int, int], None]


class Progress:
    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str, layers: Sequence[int] = (0,), unit: str = "steps") -> Iterator[OnStep]:
        """Follows one phase: the steps of all its `layers`, one layer after the other."""
        if self.quiet:
            yield lambda layer, step, steps, loss: None
        elif self.console.is_terminal:
            with self._bar(unit) as bar:
                task = bar.add_task(name, total=None, loss="")

                def show(layer: int, step: int, steps: int, loss: float | None) -> None:
                    if steps == 0:
                        return  # nothing left to learn
                    label = f"{name} layer {layer}" if len(layers) > 1 else name
                    done = layers.index(layer) * steps + step
                    total = len(layers) * steps
                    bar.update(task, description=label, total=total, completed=done, loss=_told(loss))

                yield show
        else:
            yield self._lines(name, layers, unit)

    @contextmanager
    def count(self, name: str, unit: str) -> Iterator[OnCount]:
        """Follows one thing that is counted."""
        with self.phase(name, unit=unit) as on_step:
            yield lambda done, total: on_step(0, done, total, None)

    def _bar(self, unit: str) -> Bar:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        rest = (TextColumn("{task.fields[loss]}"), _Rate(unit), TimeRemainingColumn())
        return Bar(*columns, *rest, console=self.console)

    def _lines(self, name: str, layers: Sequence[int], unit: str) -> OnStep:
        said = time.monotonic()
        begun: tuple[float, int] | None = None

        def show(layer: int, step: int, steps: int, loss: float | None) -> None:
            nonlocal said, begun
            if steps == 0:
                return  # nothing left to learn
            now, done = time.monotonic(), layers.index(layer) * steps + step
            if begun is None:
                begun = now, done
            if now - said < LINE_EVERY_SECONDS and step != steps:
                return
            said = now
            rate = (done - begun[1]) / max(now - begun[0], 1e-9)
            left = f", {rate:.1f} {unit}/s, {(len(layers) * steps - done) / rate:.0f} s left" if rate > 0 else ""
            label = f"{name} layer {layer}" if len(layers) > 1 else name
            self.say(
                f"{label}: {unit.removesuffix('s')} {step}/{steps}{', ' if loss is not None else ''}{_told(loss)}{left}"
            )

        return show


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} {self.unit}/s" if task.speed else "")


def _told(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.4f}"
