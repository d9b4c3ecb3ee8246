"""ae.profile: what ran, where, for how long, and what it moved."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import attnedit as ae
from attnedit import _core, ops, runtime
from attnedit.autograd import backward
from attnedit.profile import spans


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
    assert linear["args"]["dtype"] == "float32, multiplied as float32" and linear["args"]["GFLOP/s"] > 0
    assert all(e["args"]["GB/s"] >= 0 and e["args"]["dtype"] for e in ran if e["name"] != "upload")
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


B, T, D, V = 2, 30, 64, 500
F, H = 4, 2  # bytes of float32 and of what is stored in half of it
ADAMW = (1e-3, 0.9, 0.95, 1e-8, 0.0, 1, True)


def moved(run: Callable[[], object]) -> dict[str, tuple[float, float, str]]:
    """Bytes, operations and types of what runs, as a profile has them; plan has the same counts."""
    found: list[dict[str, Any]] = []
    with spans(found):
        run()
    with runtime.rehearsal() as made:
        run()
    ran = [(span["name"], span["flops"], span["bytes"]) for span in found if span["name"] != "fill"]
    assert sorted(ran) == sorted(task for task in made.tasks if task[0] != "fill")
    return {span["name"]: (span["bytes"], span["flops"], span["dtypes"]) for span in found}


def x(*shape: int) -> ae.Tensor:
    return ae.tensor(np.ones(shape), requires_grad=True)


def test_streaming_kernels_say_what_they_move() -> None:
    """Each number once where the definition reads or writes it; of tables and caches only what is used."""
    tokens, lengths = np.zeros((B, T), np.int32), np.array([7, 0], np.int32)
    half, row = ae.Tensor(np.ones((V, D), ml_dtypes.bfloat16)), B * T * D
    table, cos, weight = x(V, D), x(1000, 4), x(D)
    cache = np.zeros((B, 50, D), ml_dtypes.bfloat16)
    parameter, rounded = [np.ones(1000, np.float32) for _ in range(4)], np.ones(1000, ml_dtypes.bfloat16)
    for run, name, wanted in (
        (lambda: ops.add(x(B, T, D), x(B, T, D)), "add", 3 * row * F),
        (lambda: ops.swiglu(x(B, T, D), x(B, T, D)), "swiglu", 3 * row * F),
        (lambda: ops.rms_norm(x(B, T, D), weight, 1e-6), "rms_norm", (2 * row + D + B * T) * F),
        (lambda: ops.rope(x(B, T, D), cos, cos, 4), "rope", (2 * row + T * 8) * F),
        (lambda: ops.embedding(tokens, table), "embedding", 2 * row * F),
        (lambda: ops.embedding(tokens, half), "embedding", row * (F + H)),
        (lambda: backward([ops.embedding(tokens, table)], [np.ones((B, T, D), np.float32)]),
         "embedding_backward", 3 * row * F),
        (lambda: ops.cosine_loss(x(B, T, D), x(B, T, D), x(B * T)), "cosine_loss", (3 * row + B * T + 1) * F),
        (lambda: ops.cache_store(x(B, T, D), cache, np.zeros(B, np.int32)), "cache_store", row * (F + H)),
        (lambda: _core.adamw(*parameter, None, None, *ADAMW), "adamw", 1000 * 8 * F),
        (lambda: _core.adamw(*parameter, None, rounded, *ADAMW), "adamw", 1000 * (8 * F + H)),
        (lambda: ops.decode_attention(x(B, 1, D), ae.Tensor(cache), ae.Tensor(cache), lengths, 4, 4, 1.0),
         "decode_attention", 2 * B * D * F + 2 * 7 * D * H),
    ):  # fmt: skip
        assert moved(run)[name][0] == wanted, name
    types = moved(lambda: ops.embedding(tokens, half))["embedding"][2]
    assert set(types.split()) == {"table:bfloat16", "y:float32"}
    decoded = lambda: ops.decode_attention(x(B, 1, D), ae.Tensor(cache), ae.Tensor(cache), lengths, 4, 4, 1.0)  # noqa: E731
    assert moved(decoded)["decode_attention"][1] == 2 * 7 * 2 * D
    with ae.compute("bfloat16"):
        assert moved(lambda: ops.linear(x(B, T, D), half))["linear"][2] == (
            "x:float32 weight:bfloat16 y:float32, multiplied as bfloat16"
        )


def test_the_rate_of_bytes_is_theirs_by_the_time(tmp_path: Path) -> None:
    a = ae.tensor(np.ones(1 << 20))
    with ae.profile(tmp_path / "trace.json"):
        ops.add(a, a)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    (add,) = [e for e in events if e["name"] == "add"]
    assert add["args"]["MiB"] == 12 and "GFLOP/s" not in add["args"]
    assert add["args"]["GB/s"] == pytest.approx(12 * 2**20 / 1e9 / (add["dur"] * 1e-6), abs=0.01)
