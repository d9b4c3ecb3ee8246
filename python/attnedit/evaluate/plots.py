"""What is easier seen than read: losses by position, the layers, the training curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnedit.checkpoint import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_plots(run: Path, report: Mapping[str, Any]) -> list[str]:
    """quality.png and training.png in run; returns their names."""
    from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the whole program

    figure = Figure(figsize=(14, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    by_position(left, middle, report["curves"])
    layers = report["layers"]
    at = np.arange(len(layers))
    right.bar(at - 0.2, [layer["nmse_initial"] for layer in layers], 0.4, label="as initialised")
    right.bar(at + 0.2, [layer["nmse_layerwise"] for layer in layers], 0.4, label="after phase 1")
    right.set_xticks(at, [str(layer["layer"]) for layer in layers])
    right.set(xlabel="layer", ylabel="error / energy", title="attention output, teacher-forced")
    right.legend()
    figure.savefig(run / "quality.png", dpi=110)

    figure = Figure(figsize=(14, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for path in sorted((run / "layerwise").glob("layer_*/metrics.jsonl")):
        left.plot(*_smooth(path, "nmse"), label=path.parent.name.replace("_", " "), linewidth=1)
    left.set(xlabel="step", ylabel="error / energy", title="phase 1, layer by layer", yscale=_scale(left))
    if left.lines:
        left.legend(fontsize="small", ncols=2)
    path = run / "modelwise" / "metrics.jsonl"
    if path.exists():
        right.plot(*_smooth(path, "kl"), linewidth=1)
    right.set(xlabel="step", ylabel="KL, nats/token", title="phase 2", yscale=_scale(right))
    figure.savefig(run / "training.png", dpi=110)
    return ["quality.png", "training.png"]


def by_position(losses: "Axes", distance: "Axes", curves: Mapping[str, Any]) -> None:
    """Draws the curves of a Comparison."""
    losses.plot(curves["positions"], curves["teacher_nll_by_position"], label="teacher")
    losses.plot(curves["positions"], curves["student_nll_by_position"], label="student")
    losses.set(xlabel="position in the document", ylabel="NLL, nats/token", title="loss by position")
    losses.legend()
    distance.plot(curves["positions"], curves["kl_by_position"], color="C2")
    distance.set(
        xlabel="position in the document", ylabel="KL, nats/token", title="distance to the teacher by position"
    )


def _scale(axes: "Axes") -> str:
    """Losses fall by orders of magnitude; a model that was hit at once has none above 0, which have no logarithm."""
    return "log" if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines) else "linear"


def _smooth(path: Path, key: str) -> tuple[list[int], Any]:
    """Steps and the running mean of a loss over about a fiftieth of the run."""
    rows = [row for row in read_lines(path) if isinstance(row.get("step"), int) and isinstance(row.get(key), float)]
    if not rows:
        return [], []
    values = np.array([row[key] for row in rows])
    width = max(1, len(values) // 50)
    return [row["step"] for row in rows][width - 1 :], np.convolve(values, np.ones(width) / width, "valid")
