"""How far products in float32 and in bfloat16 are from the formula in float64: linear layers, attention, the KL loss.

    python benchmarks/flow/compute_error.py

Relative error: |got - exact| / |exact|, both as lengths over all numbers of an answer, from normally distributed inputs
at Qwen3-0.6B's widths.
"""

import numpy as np
import numpy.typing as npt

import attnedit as ae
from attnedit import ops
from attnedit.autograd import backward
from attnedit.compute import COMPUTES
from attnedit.runtime import synchronize
from attnedit.tensor import full, tensor

Array = npt.NDArray[np.float64]
TOKENS, HIDDEN, WIDE, HEADS, DIM, VOCABULARY = 256, 1024, 2048, 4, 128, 4096
rng = np.random.default_rng(0)


def drawn(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(compute: str) -> dict[str, tuple[npt.NDArray[np.float32], Array]]:
    x, w, t = drawn(1, TOKENS, HIDDEN), drawn(WIDE, HIDDEN, scale=HIDDEN**-0.5), drawn(1, TOKENS, WIDE)
    tx, tw = tensor(x, requires_grad=True), tensor(w, requires_grad=True)
    with ae.compute(compute):
        y = ops.linear(tx, tw)
    backward([ops.fused_mse(y, tensor(t), full((TOKENS,), 1.0)).loss])
    synchronize()
    X, W, T = (a.astype(np.float64) for a in (x[0], w, t[0]))
    Y = X @ W.T
    D = 2 * (Y - T) / (T**2).sum()
    assert tx.grad is not None
    assert tw.grad is not None
    return {"y": (y.numpy()[0], Y), "dx": (tx.grad[0], D @ W), "dweight": (tw.grad, D.T @ X)}


def attention(compute: str) -> dict[str, tuple[npt.NDArray[np.float32], Array]]:
    q, k, v, t = (drawn(1, TOKENS, HEADS * DIM) for _ in range(4))
    inputs = [tensor(a, requires_grad=True) for a in (q, k, v)]
    with ae.compute(compute):
        o = ops.attention(*inputs, HEADS, HEADS, DIM**-0.5)
    backward([ops.fused_mse(o, tensor(t), full((TOKENS,), 1.0)).loss])
    synchronize()

    def heads(a: npt.NDArray[np.float32]) -> Array:
        return a[0].astype(np.float64).reshape(TOKENS, HEADS, DIM).swapaxes(0, 1)

    def flat(a: Array) -> Array:
        return a.swapaxes(0, 1).reshape(1, TOKENS, -1)

    Q, K, V, T = map(heads, (q, k, v, t))
    P = softmax(np.where(np.tri(TOKENS, dtype=bool), Q @ K.swapaxes(1, 2) * DIM**-0.5, -np.inf))
    O = P @ V  # noqa: E741
    D = 2 * (O - T) / (T**2).sum()
    S = P * (D @ V.swapaxes(1, 2) - (D * O).sum(-1, keepdims=True)) * DIM**-0.5
    exact = (S @ K, S.swapaxes(1, 2) @ Q, P.swapaxes(1, 2) @ D)
    found = {"o": (o.numpy(), flat(O))}
    for name, got, want in zip(("dq", "dk", "dv"), inputs, exact, strict=True):
        assert got.grad is not None
        found[name] = (got.grad, flat(want))
    return found


def fused_kl(compute: str) -> dict[str, tuple[npt.NDArray[np.float32], Array]]:
    s, head = drawn(1, TOKENS, HIDDEN), drawn(VOCABULARY, HIDDEN, scale=1.6 * HIDDEN**-0.5)
    t = s + drawn(1, TOKENS, HIDDEN, scale=0.3)  # a student on its way
    ts = tensor(s, requires_grad=True)
    weights = full((TOKENS,), 1 / TOKENS)
    with ae.compute(compute):
        loss = ops.fused_kl(ts, tensor(head), tensor(t), tensor(head), weights)
    backward([loss.loss])
    synchronize()
    S, T, H = (a.astype(np.float64) for a in (s[0], t[0], head))
    q, p = softmax(S @ H.T), softmax(T @ H.T)
    assert ts.grad is not None
    return {"divergences": (loss.each.numpy(), (p * np.log(p / q)).sum(-1)), "dH": (ts.grad[0], (q - p) @ H / TOKENS)}


def main() -> None:
    print(ae.show_config())
    print("\n| op | answer | float32 | bfloat16 |\n|---|---|---|---|")
    for op in (linear, attention, fused_kl):
        errors: dict[str, list[str]] = {}
        for compute in COMPUTES:
            for name, (got, exact) in op(compute).items():
                error = np.linalg.norm(got - exact) / np.linalg.norm(exact)
                errors.setdefault(name, []).append(f"{error:.1e}")
        for name, row in errors.items():
            print(f"| {op.__name__} | {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
