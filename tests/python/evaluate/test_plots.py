"""The plots of a run, of losses that a logarithm takes and of those that it does not."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from attnedit.evaluate.plots import write_plots

CURVES = {"positions": [0, 1], "teacher_nll_by_position": [0.0, 0.0], "student_nll_by_position": [0.0, 0.0],
          "kl_by_position": [0.0, 0.0]}  # fmt: skip
REPORT: dict[str, Any] = {"curves": CURVES, "layers": [{"layer": 0, "nmse_initial": 0.0, "nmse_layerwise": 0.0}]}


@pytest.mark.parametrize("losses", [[0.0, 0.0], [-1e-9, 0.0], [0.5, 0.0], [1.0, 0.5], [0.25], []])
def test_losses_of_any_sign_are_drawn_without_a_warning(tmp_path: Path, losses: list[float]) -> None:
    for folder, key in (("layerwise/layer_000", "nmse"), ("modelwise", "kl")):
        (tmp_path / folder).mkdir(parents=True)
        rows = [json.dumps({"step": step, key: loss}) + "\n" for step, loss in enumerate(losses, 1)]
        (tmp_path / folder / "metrics.jsonl").write_text("".join(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = write_plots(tmp_path, REPORT)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
