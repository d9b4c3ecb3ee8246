"""A mixture of experts through its ops, against the definition in float64 and its complex-step gradient."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnedit as ae
from attnedit import ops
from attnedit.autograd import backward, no_grad
from attnedit.tensor import Tensor

Numbers = npt.NDArray[np.inexact]


def definition(x: Numbers, weights: dict[str, Numbers], k: int, normalize: bool) -> Numbers:
    """x [N, D], router [E, D], gate and up [E, F, D], down [E, D, F] -> [N, D]"""
    logits = x @ weights["router"].T
    p = np.exp(logits)
    p = p / p.sum(1, keepdims=True)
    y = np.zeros_like(x)
    for t, row in enumerate(x):
        chosen = np.argsort(-logits[t].real, kind="stable")[:k]
        scale = p[t, chosen].sum() if normalize else 1
        for e in chosen:
            gate, up = weights["gate"][e] @ row, weights["up"][e] @ row
            y[t] += p[t, e] / scale * (weights["down"][e] @ (gate / (1 + np.exp(-gate)) * up))
    return y


shapes = st.tuples(
    st.integers(1, 2),  # B
    st.integers(1, 5),  # T
    st.integers(1, 6),  # E
    st.integers(1, 6),  # k, at most E
    st.integers(1, 9),  # D
    st.integers(1, 9),  # F
    st.booleans(),
)


def random_weights(rng: np.random.Generator, e: int, d: int, f: int) -> dict[str, Numbers]:
    sizes = {"router": (e, d), "gate": (e, f, d), "up": (e, f, d), "down": (e, d, f)}
    return {name: rng.normal(size=size).astype(np.float32).astype(np.float64) for name, size in sizes.items()}


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**31))
def test_a_mixture_of_experts_is_its_definition(shape: tuple, seed: int) -> None:
    b, t, e, k, d, f, normalize = shape
    k = min(k, e)
    rng = np.random.default_rng(seed)
    weights = random_weights(rng, e, d, f)
    x = rng.normal(size=(b * t, d)).astype(np.float32).astype(np.float64)
    dy = rng.normal(size=(b * t, d))
    want = definition(x, weights, k, normalize)
    dx = np.empty_like(x)
    for i in np.ndindex(*x.shape):
        moved = x.astype(np.complex128)
        moved[i] += 1e-50j
        dx[i] = (definition(moved, weights, k, normalize) * dy).sum().imag / 1e-50

    given_x = ae.tensor(x.reshape(b, t, d), requires_grad=True)
    experts = {name: [ae.tensor(matrix) for matrix in weights[name]] for name in ("gate", "up", "down")}
    router = Tensor(ae.tensor(weights["router"]).array)
    routes = ops.moe_route(ops.linear(given_x, router), k, normalize)
    y = ops.experts(given_x, routes, **experts)
    np.testing.assert_allclose(y.numpy().reshape(b * t, d), want, rtol=1e-4, atol=1e-4)
    backward([y], [ae.tensor(dy.reshape(b, t, d)).array])
    ae.runtime.synchronize()
    assert given_x.grad is not None
    np.testing.assert_allclose(given_x.grad.reshape(b * t, d), dx, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["gate", "up", "down"])
def test_experts_that_want_a_gradient_are_refused_where_one_would_be_silently_missing(name: str) -> None:
    rng = np.random.default_rng(0)
    weights = {
        part: [ae.tensor(m) for m in ms] for part, ms in random_weights(rng, 3, 4, 5).items() if part != "router"
    }
    x, routes = ae.tensor(rng.normal(size=(1, 2, 4))), ops.moe_route(ae.tensor(rng.normal(size=(1, 2, 3))), 2, True)
    weights[name][1].requires_grad = True
    with pytest.raises(ValueError, match=rf"^\[experts\] {name} must be frozen, .*; {name}\[1\] requires one$"):
        ops.experts(x, routes, **weights)
    with no_grad():
        assert ops.experts(x, routes, **weights).shape == x.shape


def test_a_nan_among_a_tokens_logits_is_seen_in_its_answer_and_in_no_other() -> None:
    rng = np.random.default_rng(0)
    experts = {
        part: [ae.tensor(m) for m in ms] for part, ms in random_weights(rng, 4, 3, 5).items() if part != "router"
    }
    logits = rng.normal(size=(1, 3, 4)).astype(np.float32)
    logits[0, 1, 2] = np.nan
    routes = ops.moe_route(ae.tensor(logits), 2, True)
    y = ops.experts(ae.tensor(rng.normal(size=(1, 3, 3))), routes, **experts).numpy()
    assert np.isnan(y).all(-1).tolist() == [[False, True, False]] and np.isfinite(y[0, [0, 2]]).all()
    assert np.isnan(routes.weights.numpy()[1]).all()
