"""The tape: gradients reach the right tensors. Arithmetic is proved in C++."""

import weakref

import numpy as np
import pytest

import attnedit as ae
from attnedit import ops
from attnedit.autograd import backward, no_grad, recompute
from attnedit.tensor import full


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def loss_of(y: ae.Tensor, target: np.ndarray) -> ae.Tensor:
    """sum (y - target)^2 / sum target^2, whose gradient is known."""
    return ops.fused_mse(y, ae.tensor(target), full((y.shape[0] * y.shape[1],), 1.0)).loss


def test_linear_gives_gradients_to_input_weight_and_bias() -> None:
    x, w, b, t = values((2, 3, 4), 0), values((5, 4), 1), values((5,), 2), values((2, 3, 5), 3)
    tx, tw, tb = (ae.tensor(v, requires_grad=True) for v in (x, w, b))
    loss = loss_of(ops.linear(tx, tw, tb), t)
    backward([loss])
    dy = 2 * (x @ w.T + b - t) / (t**2).sum()
    ae.tensor([0]).numpy()  # waits for the stream
    np.testing.assert_allclose(tx.grad, dy @ w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tw.grad, np.einsum("bto,bti->oi", dy, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tb.grad, dy.sum((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 40])  # few rows are multiplied by other code
@pytest.mark.parametrize("through", [False, True])
def test_a_bias_trains_under_a_frozen_weight(rows: int, through: bool) -> None:
    x, w, b, t = values((1, rows, 4), 0), values((5, 4), 1), values((5,), 2), values((1, rows, 5), 3)
    tx, tb = ae.tensor(x, requires_grad=through), ae.tensor(b, requires_grad=True)
    backward([loss_of(ops.linear(tx, ae.tensor(w), tb), t)])
    dy = 2 * (x @ w.T + b - t) / (t**2).sum()
    ae.tensor([0]).numpy()
    np.testing.assert_allclose(tb.grad, dy.sum((0, 1)), rtol=1e-4, atol=1e-6)
    if through:
        np.testing.assert_allclose(tx.grad, dy @ w, rtol=1e-4, atol=1e-6)


def test_logit_mse_is_the_squared_error_of_logits() -> None:
    x, t, head, w = values((2, 3, 4), 0), values((2, 3, 4), 1), values((9, 4), 2), np.abs(values((6,), 3))
    tx = ae.tensor(x, requires_grad=True)
    loss = ops.logit_mse(tx, ae.tensor(t), ops.gram(ae.tensor(head)), ae.tensor(w))
    backward([loss])
    apart = ((x - t) @ head.T).reshape(6, 9)
    np.testing.assert_allclose(loss.item(), (w * (apart**2).mean(1)).sum(), rtol=1e-5)
    want = (2 / 9 * w[:, None] * (apart @ head)).reshape(x.shape)
    np.testing.assert_allclose(tx.grad, want, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="head must be frozen"):
        ops.gram(ae.tensor(head, requires_grad=True))


def test_a_tensor_used_twice_gets_the_sum() -> None:
    x, t = values((1, 3, 4), 0), values((1, 3, 4), 1)
    tx = ae.tensor(x, requires_grad=True)
    backward([loss_of(ops.add(tx, tx), t)])
    ae.tensor([0]).numpy()
    np.testing.assert_allclose(tx.grad, 2 * 2 * (2 * x - t) / (t**2).sum(), rtol=1e-4, atol=1e-6)


def test_parameter_gradients_accumulate_over_passes() -> None:
    x, w, t = values((1, 3, 4), 0), values((5, 4), 1), values((1, 3, 5), 2)
    once, twice = (ae.tensor(w, requires_grad=True) for _ in range(2))
    backward([loss_of(ops.linear(ae.tensor(x), once), t)])
    for _ in range(2):
        backward([loss_of(ops.linear(ae.tensor(x), twice), t)])
    ae.tensor([0]).numpy()
    np.testing.assert_allclose(twice.grad, 2 * once.grad, rtol=1e-6)


def test_no_grad_records_nothing() -> None:
    w = ae.tensor(values((5, 4), 1), requires_grad=True)
    with no_grad():
        y = ops.linear(ae.tensor(values((1, 3, 4), 0)), w)
    assert y.node is None and not y.requires_grad


def test_a_tape_is_used_once() -> None:
    w = ae.tensor(values((5, 4), 1), requires_grad=True)
    loss = loss_of(ops.linear(ae.tensor(values((1, 3, 4), 0)), w), values((1, 3, 5), 2))
    backward([loss])
    with pytest.raises(RuntimeError, match="used already"):
        backward([loss])


def test_recompute_gives_the_same_bits() -> None:
    x, w, t = values((2, 3, 4), 0), values((4, 4), 1), values((2, 3, 4), 2)
    grads = []
    for wrap in (lambda f, v: f(v), recompute):
        tx, tw = ae.tensor(x, requires_grad=True), ae.tensor(w, requires_grad=True)

        def block(h: ae.Tensor, weight: ae.Tensor = tw) -> ae.Tensor:
            return ops.add(h, ops.linear(h, weight))

        backward([loss_of(wrap(block, wrap(block, tx)), t)])
        ae.tensor([0]).numpy()
        grads.append((tx.grad, tw.grad))
    np.testing.assert_array_equal(grads[0][0], grads[1][0])
    np.testing.assert_array_equal(grads[0][1], grads[1][1])


def test_two_losses_descend_together() -> None:
    x, w, t = values((1, 3, 4), 0), values((5, 4), 1), values((1, 3, 5), 2)
    tw, tv = (ae.tensor(w, requires_grad=True) for _ in range(2))
    y = ops.linear(ae.tensor(x), tw)
    backward([loss_of(y, t), loss_of(y, t)])
    z = ops.linear(ae.tensor(x), tv)
    backward([ops.add(loss_of(z, t), loss_of(z, t))])
    ae.tensor([0]).numpy()
    np.testing.assert_allclose(tw.grad, tv.grad, rtol=1e-6)


KEPT = {
    "a frozen layer's input": lambda x: ops.linear(x, ae.tensor(values((8, 8), 1))),
    "a rotation's input": lambda x: ops.rope(x, ae.tensor(values((3, 2), 1)), ae.tensor(values((3, 2), 2)), 2),
    "what is added": lambda x: ops.add(x, x),
    "latents that become keys and values": lambda x: ops.mla_expand(x, ae.tensor(values((1, 3, 2), 1)), 2, 2)[0],
}


@pytest.mark.parametrize("what", KEPT)
def test_the_tape_keeps_no_values_that_the_way_back_does_not_read(what: str) -> None:
    leaf = ae.tensor(values((1, 3, 8), 0), requires_grad=True)
    x = ops.add(leaf, leaf)
    array = weakref.ref(x.array)
    y = KEPT[what](x)
    del x
    assert array() is None
    backward([y], [full(y.shape, 1.0).array])
    assert leaf.grad is not None and np.isfinite(ae.Tensor(leaf.grad).numpy()).all()
