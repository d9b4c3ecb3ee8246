"""metrics.jsonl: what a continued run keeps of it, and what is left of it on a bad disk."""

import json
from pathlib import Path

import numpy as np

from attnedit.distill.loop import Metrics
from attnedit.evaluate.plots import write_plots


def test_a_continued_run_writes_its_lines_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.rewind("layer 0", 0)  # there is none yet
    for name, steps in (("layer 0", 3), ("layer 1", 5)):
        for step in range(1, steps + 1):
            metrics.write({"name": name, "step": step, "nmse": 0.1 / step})
    whole = path.read_text()
    path.write_text(whole + '{"name": "layer 1", "st')  # a kill
    metrics.rewind("layer 1", 3)
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:6])


def test_any_flipped_bit_costs_a_line_at_most(tmp_path: Path) -> None:
    path = tmp_path / "modelwise/metrics.jsonl"
    for step in range(20):
        Metrics(path).write({"name": "modelwise", "step": step, "kl": 1 / (1 + step)})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(whole), 300):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        Metrics(path).rewind("modelwise", 10)
        left = [json.loads(line) for line in path.read_text().splitlines()]
        assert 9 <= len(left) <= 20  # two lines that became one are lost together
    names = ("positions", "teacher_nll_by_position", "student_nll_by_position", "kl_by_position")
    for damaged in (whole.replace(b'"step": 7', b'"stop": 7').replace(b"{", b"\xff", 1), b"\xff"):
        path.write_bytes(damaged)
        assert "training.png" in write_plots(tmp_path, {"layers": [], "curves": {name: [1.0] for name in names}})
