"""The optimizers' defining properties; AdamW's formula has its oracle beside its kernel."""

import ml_dtypes
import numpy as np
import pytest

import attnedit as ae
from attnedit import ops, runtime
from attnedit.autograd import backward, grad_of
from attnedit.distill.optimizer import Method, Optimizer
from attnedit.tensor import Tensor


def give(w: Tensor, gradient: np.ndarray) -> None:
    buffer = grad_of(w)
    runtime.synchronize()
    buffer[...] = gradient


def moved(gradients: list[np.ndarray], start: np.ndarray, method: Method, rate: float = 0.1) -> np.ndarray:
    w = ae.tensor(start, requires_grad=True)
    optimizer = Optimizer({"w": w}, method)
    for g in gradients:
        give(w, g)
        optimizer.step(rate)
        w.numpy()  # waits for the stream
        assert not grad_of(w).any()
    return w.numpy().copy()


def orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


@pytest.mark.parametrize(("method", "follows"), [("soap", True), ("adamw", False)])
def test_soap_follows_a_change_of_basis_and_adamw_does_not(method: Method, follows: bool) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(6, 6)) * np.logspace(0, -1, 6) for _ in range(25)]
    left, right, start = orthogonal(6, 1), orthogonal(6, 2), rng.normal(size=(6, 6))
    plain = moved(gradients, start, method)
    turned = moved([left @ g @ right.T for g in gradients], left @ start @ right.T, method)
    assert np.allclose(left.T @ turned @ right, plain, atol=0.1) == follows


def test_one_soap_step_is_the_orthogonal_factor_of_the_gradient() -> None:
    """From nothing, M / sqrt V is a sign in the basis of singular vectors: W moves by -rate U V^T."""
    g = np.random.default_rng(3).normal(size=(5, 5))
    u, _, vt = np.linalg.svd(g)
    change = moved([g], np.zeros((5, 5)), "soap")
    np.testing.assert_allclose(change, -0.1 * u @ vt, atol=2e-3)


def test_soap_finds_a_narrow_tilted_valley_faster() -> None:
    """0.5 tr(E H E^T) with H of condition 1e4 in a turned basis, noise on top."""
    basis, target = orthogonal(16, 4), np.random.default_rng(5).normal(size=(16, 16))
    curvature = basis @ np.diag(np.logspace(0, -4, 16)) @ basis.T
    loss = {}
    for method in ("adamw", "soap"):
        w = ae.tensor(np.zeros((16, 16)), requires_grad=True)
        optimizer = Optimizer({"w": w}, method)  # type: ignore[arg-type]
        noise = np.random.default_rng(6)
        for step in range(300):
            error = w.numpy() - target
            give(w, error @ curvature + 1e-3 * noise.normal(size=(16, 16)))
            optimizer.step(0.05 * (1 - step / 300))
        error = w.numpy() - target
        loss[method] = float(np.sum(error @ curvature * error))
    assert loss["soap"] < 0.5 * loss["adamw"], loss


def test_soap_stays_where_no_gradient_points() -> None:
    """Three columns never get a gradient: rounding must not move them."""
    rng = np.random.default_rng(7)
    gradients = [np.hstack([rng.normal(size=(8, 5)), np.zeros((8, 3))]) for _ in range(30)]
    assert np.abs(moved(gradients, np.zeros((8, 8)), "soap")[:, 5:]).max() < 1e-2


def test_vectors_and_matrices_of_one_long_side_train_too() -> None:
    rng = np.random.default_rng(8)
    vector = [rng.normal(size=7) for _ in range(5)]
    np.testing.assert_array_equal(moved(vector, np.ones(7), "soap"), moved(vector, np.ones(7), "adamw"))
    tall = [rng.normal(size=(5000, 3)) for _ in range(3)]
    assert np.isfinite(moved(tall, np.ones((5000, 3)), "soap")).all()


def test_a_bfloat16_weight_follows_its_float32_master() -> None:
    """Steps a thousandth of the weight: lost in bfloat16, whose next number is 1/128 away, but not in the master."""
    rng = np.random.default_rng(9)
    start = rng.normal(size=(4, 6)).astype(ml_dtypes.bfloat16)
    gradients = [rng.normal(size=(4, 6)) + 1 for _ in range(40)]
    weights = {np.dtype(t).name: Tensor(start.astype(t), requires_grad=True) for t in (np.float32, ml_dtypes.bfloat16)}
    for w in weights.values():
        optimizer = Optimizer({"w": w})
        for i, g in enumerate(gradients):
            if i == 20:  # a run that stops here and goes on
                state = {name: array.copy() for name, array in optimizer.state().items()}
                optimizer = Optimizer({"w": w})
                optimizer.restore(state)
            give(w, g)
            optimizer.step(1e-3)
            w.numpy()
    plain = weights["float32"].numpy()
    assert np.abs(plain - start.astype(np.float32)).min() > 0.01
    np.testing.assert_array_equal(weights["bfloat16"].numpy(), plain.astype(ml_dtypes.bfloat16))


def test_a_bfloat16_weight_gets_its_gradient_from_the_tape() -> None:
    rng = np.random.default_rng(10)
    start = rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16)
    x, dy = ae.tensor(rng.normal(size=(1, 4, 5))), ae.tensor(rng.normal(size=(1, 4, 3)))
    grads = []
    for t in (np.float32, ml_dtypes.bfloat16):
        w = Tensor(start.astype(t), requires_grad=True)
        backward([ops.linear(x, w)], [dy.array])
        runtime.synchronize()
        grads.append(grad_of(w))
    assert grads[0].any()
    np.testing.assert_array_equal(*grads)


def test_types_that_a_method_does_not_move() -> None:
    w = Tensor(np.zeros((4, 4), ml_dtypes.bfloat16), requires_grad=True)
    with pytest.raises(ValueError, match=r"\[optimizer\] soap moves float32 parameters, got w, bfloat16"):
        Optimizer({"w": w}, "soap")
    half = Tensor(np.zeros(4, np.float16), requires_grad=True)
    with pytest.raises(ValueError, match=r"\[optimizer\] adamw moves float32 or bfloat16 parameters, got h, float16"):
        Optimizer({"h": half})
