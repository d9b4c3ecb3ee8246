"""Arguments that would reach outside their arrays, or mean nothing, are refused before anything is launched."""

from pathlib import Path

import numpy as np
import pytest
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit import _core, ops
from attnedit.autograd import backward
from attnedit.tensor import empty

FAR = (2**63 - 1, 2**63 - 7, 2**62)


def zeros(*shape: int) -> ae.Tensor:
    return ae.tensor(np.zeros(shape))


@pytest.mark.parametrize("far", FAR)
def test_places_beyond_what_64_bits_hold_are_refused(far: int) -> None:
    cos, sin = zeros(8, 4), zeros(8, 4)
    with pytest.raises(ValueError, match=r"\[rope\] offset must be in \[0, 0\]"):
        ops.rope(zeros(1, 4, 16), cos, sin, 2, offset=far)
    with pytest.raises(ValueError, match=r"\[rope\] start must be in \[0, 4\]"):
        ops.rope(zeros(1, 4, 16), cos, sin, 2, start=far)
    with pytest.raises(ValueError, match=r"\[mla_compress\] start must be in"):
        ops.mla_compress(zeros(1, 4, 12), zeros(4), 1e-6, cos, sin, start=far)
    with pytest.raises(ValueError, match=r"\[cache_store\] offset must be in \[0, 4\]"):
        ops.cache_store(zeros(2, 3, 4), np.zeros((2, 5, 8), np.float32), np.array([0, 1], np.int32), far)


def test_a_norm_knows_the_sizes_of_its_arrays() -> None:
    x, weight = np.zeros((40, 8), np.float32), np.ones(8, np.float32)
    y, rstd, short = np.zeros_like(x), np.zeros(40, np.float32), np.zeros((1, 8), np.float32)
    with pytest.raises(ValueError, match=r"\[rms_norm\] y must have shape \(40, 8\), got \(1, 8\)"):
        _core.rms_norm_forward(x, weight, 1e-6, short, rstd)
    for dy, dx, name in ((short, y, "dy"), (x, short, "dx")):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(40, 8\), got \(1, 8\)"):
            _core.rms_norm_backward(dy, y if dy is x else x, weight, rstd, dx, None)
    for wrong in (np.ones(0, np.float32), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match="weight must have a length that divides the last dimension of x, 8"):
            _core.rms_norm_backward(x, y, wrong, rstd, np.zeros_like(x), None)


def test_numbers_in_another_byte_order_and_what_is_no_number_are_refused() -> None:
    with pytest.raises(TypeError, match=r"\[linear\] x must be float32, got >f4"):
        ops.linear(ae.Tensor(np.ones((2, 3), ">f4")), zeros(4, 3))
    for dtype in (object, "U5", "M8[s]", [("a", "f4")]):
        with pytest.raises(TypeError, match=r"\[empty\] dtype must be of numbers"):
            empty((2,), dtype)


def test_arrays_that_nobody_else_holds_live_until_they_are_read() -> None:
    x, w = np.full((64, 256), 0.5, np.float32), np.ones((256, 256), np.float32)
    for _ in range(50):
        y = ops.linear(ae.Tensor(x.copy()), ae.Tensor(w.copy()))
        assert (y.numpy() == 128).all()
        leaf = ae.tensor(x, requires_grad=True)
        backward([ops.linear(leaf, ae.tensor(w))], [x.copy()])
        assert leaf.grad is not None and (ae.Tensor(leaf.grad).numpy() == 128).all()


def test_one_profile_at_a_time(tmp_path: Path) -> None:
    with ae.profile(tmp_path / "outer.json"):
        with (
            pytest.raises(ValueError, match="another profile must not be running"),
            ae.profile(tmp_path / "inner.json"),
        ):
            pass
        zeros(2, 3).numpy()
    assert "upload" in (tmp_path / "outer.json").read_text() and not (tmp_path / "inner.json").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (ae.MLA(12, init="foo"), "init must be 'regression', 'svd' or 'random', got 'foo'"),  # type: ignore[arg-type]
        (ae.GateSWA(full_layers="all"), "full_layers"),  # type: ignore[arg-type]
        (ae.GateSWA(gate="tanh"), "gate must be 'sigmoid' or 'softplus', got 'tanh'"),  # type: ignore[arg-type]
    ],
)
def test_a_target_is_checked_where_it_is_used(target: ae.MLA | ae.GateSWA, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[edit\] {message}"):
        ae.edit(random_decoder(tiny_config()), target)


def test_nothing_gives_nothing() -> None:
    lengths = np.zeros(0, np.int32)
    o = ops.decode_attention(zeros(0, 1, 32), zeros(0, 4, 16), zeros(0, 4, 16), lengths, 4, 2, 0.25)
    assert o.shape == (0, 1, 32)
    assert ops.mla_decode(zeros(0, 1, 16), zeros(0, 1, 8), zeros(0, 4, 12), lengths, 2, 0.25).shape == (0, 1, 16)
    x, weights = zeros(1, 0, 8), [zeros(4, 8) for _ in range(2)]
    routes = ops.moe_route(zeros(1, 0, 2), 2, True)
    assert ops.experts(x, routes, weights, weights, [zeros(8, 4) for _ in range(2)]).shape == (1, 0, 8)
    with pytest.raises(ValueError, match="3 sequences must share the rows of an activation, got 2"):
        ops.decode_attention(zeros(2, 1, 32), zeros(2, 4, 16), zeros(2, 4, 16), np.ones(3, np.int32), 4, 2, 0.25)
