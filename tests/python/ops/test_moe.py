"""A mixture of experts through its ops, against the definition in float64 and its complex-step gradient."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

import attnedit as ae
from attnedit import ops
from attnedit.autograd import backward
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
