"""What a notebook shows: tables, pictures, and curves that grow while a phase trains. Only the last need IPython."""

import base64
import importlib
import io
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDRAWN_EVERY_SECONDS = 1.0
CELL = "text-align: left; white-space: pre-wrap"


def table(title: str, rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """HTML of plain texts; what they hold is shown, never run."""

    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f'<{kind} style="{CELL}">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"

    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<p><b>{escape(title)}</b></p><table>{head}<tbody>{body}</tbody></table>"


def picture(figure: "Figure", alt: str) -> str:
    """HTML that holds the figure itself, so that it stays in the saved notebook."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}">'


def layerwise_curves() -> Callable[[int, int, int, float], None]:
    """on_step for `distill.layerwise`: a bar, and every layer's error as it falls, in the output of this cell."""
    curves = _Curves("error / energy")
    return lambda layer, step, steps, loss: curves.add(f"layer {layer}", step, steps, loss)


def modelwise_curve() -> Callable[[int, int, dict[str, float]], None]:
    """on_step for `distill.modelwise`: a bar, and the divergence as it falls, in the output of this cell."""
    curves = _Curves("KL, nats/token")
    return lambda step, steps, losses: curves.add("model", step, steps, losses["kl"])


class _Curves:
    """A bar with rate and time left above one line of losses for each label."""

    def __init__(self, unit: str) -> None:
        try:
            self._ipython: Any = importlib.import_module("IPython.display")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "[notebook] live curves need IPython, which every notebook has; got none"
            ) from None
        self._unit = unit
        self._losses: dict[str, list[tuple[int, float]]] = {}
        self._begun = self._drawn = time.monotonic()
        waiting = self._ipython.HTML("<p>waiting for the first step</p>")
        self._shown = self._ipython.display(waiting, display_id=True)

    def add(self, label: str, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if label not in self._losses:
            self._begun, self._losses[label] = now, []
        points = self._losses[label]
        points.append((step, loss))
        if 1 < step < steps and now - self._drawn < REDRAWN_EVERY_SECONDS:
            return
        # The first step of a label is not timed: it began before anybody looked.
        timed, taken = len(points) - 1, now - self._begun
        rate = f", {timed / taken:.1f} steps/s" if timed and taken > 0 else ""
        left = f", {(steps - step) * taken / timed:.0f} s left" if timed and step < steps else ""
        at = f"step {step:,} of {steps:,}" if steps else "nothing left to learn"
        text = f"{label}: {at}, loss {loss:.4f}{rate}{left}"
        bar = f'<progress value="{step}" max="{steps}" style="width: 20em"></progress> {escape(text)}'
        self._shown.update(self._ipython.HTML(f"<p>{bar}</p>{picture(self._figure(), 'losses by step')}"))
        self._drawn = time.monotonic()

    def _figure(self) -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots()
        for label, points in self._losses.items():
            alone = "o" if len(points) == 1 else ""  # one point makes no line
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1, marker=alone, markersize=4)
        falls = any(loss > 0 for points in self._losses.values() for _, loss in points)
        axes.set(xlabel="step", ylabel=self._unit, yscale="log" if falls else "linear")
        axes.legend(fontsize="small", ncols=4)
        return figure
