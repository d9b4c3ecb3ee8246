"""ae.profile: what ran, where, for how long, and what it moved."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import attnedit as ae
from attnedit import ops, runtime
from attnedit.autograd import backward


def test_a_step_becomes_a_trace(tmp_path: Path) -> None:
    x, w = ae.tensor(np.ones((1, 6, 8))), ae.tensor(np.ones((4, 8)), requires_grad=True)
    ops.linear(x, w)  # before: must not show
    with ae.profile(tmp_path / "trace.json"):
        y = ops.linear(x, w)
        loss = ops.fused_mse(y, ae.tensor(np.zeros((1, 6, 4)) + 1), ae.tensor(np.ones(6))).loss
        backward([loss])
        with runtime.stream(runtime.Stream()):
            ops.add(x, x.detach())
    ops.linear(x, w)  # after
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    ran = [e for e in events if e["ph"] == "X"]
    linear = next(e for e in ran if e["name"] == "linear")
    assert [e["name"] for e in ran].count("linear") == 1
    assert {"linear", "fused_mse", "linear_backward", "add"} <= {e["name"] for e in ran}
    assert linear["args"]["shapes"] == "x(1, 6, 8) weight(4, 8) y(1, 6, 4)"
    assert linear["args"]["GFLOP"] == pytest.approx(2 * 6 * 8 * 4 / 1e9)
    assert linear["args"]["MiB"] == pytest.approx((48 + 32 + 24) * 4 / 2**20, abs=1e-3)
    add = next(e for e in ran if e["name"] == "add")
    assert add["tid"] != linear["tid"]
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in ran)
    one_stream = sorted((e for e in ran if e["tid"] == linear["tid"]), key=lambda e: e["ts"])
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in pairwise(one_stream))
    named = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert runtime.get_device_name(0) in named and len(named) == 3


def test_where_nothing_can_be_written_nothing_runs(tmp_path: Path) -> None:
    ran = []
    for path in (tmp_path / "absent" / "trace.json", tmp_path):
        with pytest.raises(OSError, match=str(path)), ae.profile(path):
            ran.append(path)
    assert not ran
    with ae.profile(tmp_path / "trace.json"):
        assert not (tmp_path / "trace.json").exists()  # nor is there anything before it is whole


def test_an_error_inside_still_writes_the_trace(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ae.profile(tmp_path / "trace.json"):
        ops.add(ae.tensor([1.0]), ae.tensor([2.0]))
        raise KeyError
    assert "add" in (tmp_path / "trace.json").read_text()
