from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import attnedit as ae
from attnedit import ops
from attnedit.autograd import backward, recompute
from attnedit.runtime import synchronize
from attnedit.tensor import Tensor, tensor

rng = np.random.default_rng(0)


X, WEIGHT, Y = (rng.standard_normal(shape, dtype=np.float32) for shape in ((1, 20, 33), (9, 33), (1, 20, 9)))


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def trained(*shape: int) -> Tensor:
    return tensor(rng.standard_normal(shape, dtype=np.float32), requires_grad=True)


def test_linear_multiplies_rounded_factors_there_and_back() -> None:
    x, weight = trained(1, 30, 47), trained(51, 47)
    target = rng.standard_normal((1, 30, 51), dtype=np.float32)
    with ae.compute("bfloat16"):
        y = ops.linear(x, weight)
    loss = ops.fused_mse(y, tensor(target), tensor(np.ones(30, np.float32))).loss
    backward([loss])  # outside: the way back multiplies as the way there did
    rounded_x, rounded_weight = (to_bfloat16(t.numpy()).astype(np.float64) for t in (x, weight))
    np.testing.assert_allclose(y.numpy()[0], rounded_x[0] @ rounded_weight.T, atol=2e-5)
    dy = to_bfloat16(2 * (y.numpy() - target)[0] / (target.astype(np.float64) ** 2).sum())
    for got, want in ((x.grad, dy @ rounded_weight), (weight.grad, dy.T @ rounded_x[0])):
        # Now and then a number of dy lies so near the middle that it is rounded the other way.
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-3 * np.abs(want).max())


def test_a_recomputed_block_multiplies_as_it_did() -> None:
    def gradients(again: bool) -> list[np.ndarray]:
        weight, x = tensor(WEIGHT, requires_grad=True), tensor(X, requires_grad=True)
        with ae.compute("bfloat16"):
            y = recompute(lambda x: ops.linear(x, weight), x) if again else ops.linear(x, weight)
        backward([ops.fused_mse(y, tensor(Y), tensor(np.ones(20, np.float32))).loss])
        synchronize()
        return [x.grad, weight.grad]

    for direct, again in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_array_equal(direct, again)


def test_it_holds_for_the_thread_that_says_it_as_the_docstring_tells() -> None:
    x, weight = tensor(X), tensor(WEIGHT)
    exact, (outside, inside) = ops.linear(x, weight).numpy(), ([], [])

    def product(kept: list[np.ndarray]) -> None:
        kept.append(ops.linear(x, weight).numpy())

    def own() -> None:
        with ae.compute("bfloat16"):
            product(inside)

    with ae.compute("bfloat16"), ThreadPoolExecutor(1) as pool:
        rounded = ops.linear(x, weight).numpy()
        pool.submit(product, outside).result()
        pool.submit(own).result()
    assert not np.array_equal(rounded, exact)
    np.testing.assert_array_equal(outside[0], exact)
    np.testing.assert_array_equal(inside[0], rounded)
    assert ae.compute.__doc__ is not None and "It holds for this thread" in ae.compute.__doc__


def test_float32_again_behind_the_block() -> None:
    x, weight = trained(1, 20, 33), trained(9, 33)
    with pytest.raises(RuntimeError, match="left"), ae.compute("bfloat16"):
        raise RuntimeError("left")
    exact = x.numpy()[0].astype(np.float64) @ weight.numpy().T
    np.testing.assert_allclose(ops.linear(x, weight).numpy()[0], exact, atol=1e-5)


def test_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="float32, bfloat16, got 'float16'"), ae.compute("float16"):
        pass
