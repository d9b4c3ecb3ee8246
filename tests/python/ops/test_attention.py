"""Attention through the op, over drawn shapes: against the definition in float64, and its identities."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

import attnedit as ae
from attnedit import ops

Floats = npt.NDArray[np.float64]


def definition(
    q: Floats, k: Floats, v: Floats, scale: float, window: int, gate: Floats | None, starts: Floats
) -> Floats:
    """q [B,T,H,K], k [B,T,G,K], v [B,T,G,Kv] -> [B,T,H,Kv]"""
    time, heads = q.shape[1:3]
    group = heads // k.shape[2]
    k, v = k.repeat(group, axis=2), v.repeat(group, axis=2)
    scores = np.einsum("bthd,bshd->bhts", q, k) * scale
    t, s = np.arange(time)[:, None], np.arange(time)[None]
    seen = (s <= t) & ((s > t - window) if window else True) & (s >= starts[:, :, None])
    scores = np.where(seen[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    o = np.einsum("bhts,bshd->bthd", p / p.sum(-1, keepdims=True), v)
    return o if gate is None else o / (1 + np.exp(-gate))


shapes = st.tuples(
    st.integers(1, 3),  # B
    st.one_of(st.integers(1, 9), st.sampled_from([31, 97, 130])),  # T: within and across tiles
    st.sampled_from([1, 2, 3]),  # G
    st.sampled_from([1, 2, 5]),  # H / G
    st.integers(1, 20),  # K
    st.integers(1, 20),  # Kv
    st.integers(0, 140),  # window, 0: none
    st.sampled_from([None, "head", "element"]),
    st.integers(0, 5),  # places where documents begin
)


def flat(x: Floats) -> ae.Tensor:
    return ae.tensor(x.reshape(*x.shape[:2], -1))


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**31))
def test_attention_is_its_definition(shape: tuple, seed: int) -> None:
    b, t, g, per, width, value_width, window, gated, documents = shape
    heads = g * per
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(b, t, n, w)) for n, w in ((heads, width), (g, width), (g, value_width)))
    gate = None if gated is None else rng.normal(size=(b, t, heads, 1 if gated == "head" else value_width))
    begins = np.zeros((b, t), np.int32)
    for row in begins:
        for begin in rng.integers(0, t, documents):
            row[begin] = begin
    starts = np.maximum.accumulate(begins, axis=1)
    want = definition(q, k, v, width**-0.5, window, gate, starts)
    got = ops.attention(
        flat(q), flat(k), flat(v), heads, g, width**-0.5, window, None if gate is None else flat(gate),
        document_starts=starts if documents else None,
    ).numpy()  # fmt: skip
    np.testing.assert_allclose(got, want.reshape(b, t, -1), rtol=2e-5, atol=2e-5)


@settings(max_examples=20)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31))
def test_the_past_does_not_see_the_future(time: int, cut: int, seed: int) -> None:
    cut = min(cut, time)
    x = np.random.default_rng(seed).normal(size=(1, time, 2 * 6))
    whole = ops.attention(*(ae.tensor(x) for _ in range(3)), 2, 2, 0.4, window=11).numpy()
    part = ops.attention(*(ae.tensor(x[:, :cut]) for _ in range(3)), 2, 2, 0.4, window=11).numpy()
    np.testing.assert_allclose(whole[:, :cut], part, rtol=1e-6, atol=1e-6)
