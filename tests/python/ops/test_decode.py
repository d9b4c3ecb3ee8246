"""Decoding over a cache: token by token equals the whole sequence at once, for any storage type."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnedit as ae
from attnedit import ops
from attnedit.tensor import Tensor

STORED = {"float32": 2e-6, "bfloat16": 3e-2, "float16": 3e-3}  # and how far rounding the cache may move a result


def cached(values: np.ndarray, dtype: str) -> ae.Tensor:
    return Tensor(values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))


def lengths(*counts: int) -> np.ndarray:
    return np.array(counts, np.int32)


@settings(max_examples=25)
@given(
    st.integers(1, 40),  # T
    st.integers(1, 50),  # window, as a ring of as many slots
    st.sampled_from([(4, 1), (6, 2), (16, 8), (32, 1)]),  # heads, kv_heads
    st.sampled_from([8, 16, 21]),  # K
    st.sampled_from([None, "head", "element"]),
    st.sampled_from(sorted(STORED)),
    st.integers(0, 2**31),
)
def test_a_ring_is_attention_with_a_window(
    time: int, window: int, heads: tuple[int, int], width: int, gated: str | None, dtype: str, seed: int
) -> None:
    h, g = heads
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(1, time, n * width)).astype(np.float32) for n in (h, g, g))
    gate = None if gated is None else rng.normal(size=(1, time, h * (1 if gated == "head" else width)))
    whole = ops.attention(
        *map(ae.tensor, (q, k, v)), h, g, 0.3, window, None if gate is None else ae.tensor(gate), "softplus"
    ).numpy()
    ring_k, ring_v = np.zeros((2, 1, window, g * width), np.float32)
    for t in range(time):
        ring_k[:, t % window], ring_v[:, t % window] = k[:, t], v[:, t]
        got = ops.decode_attention(
            ae.tensor(q[:, t : t + 1]), cached(ring_k, dtype), cached(ring_v, dtype), lengths(min(t + 1, window)),
            h, g, 0.3, None if gate is None else ae.tensor(gate[:, t : t + 1]), "softplus",
        ).numpy()  # fmt: skip
        np.testing.assert_allclose(got[:, 0], whole[:, t], rtol=0, atol=STORED[dtype] * (1 + abs(whole[:, t]).max()))


@settings(max_examples=25)
@given(
    st.integers(1, 60),  # cached positions
    st.integers(1, 4),  # of which this many are queried at once
    st.sampled_from([1, 4, 16]),  # heads
    st.sampled_from([16, 24]),  # R
    st.sampled_from(sorted(STORED)),
    st.integers(0, 2**31),
)
def test_absorbed_latent_attention_is_the_expanded_one(
    size: int, queries: int, heads: int, rank: int, dtype: str, seed: int
) -> None:
    size, nope, rope, width = max(size, queries), 6, 4, 5
    rng = np.random.default_rng(seed)
    latent, k_rope = rng.normal(size=(1, size, rank)), rng.normal(size=(1, size, rope))
    w_uk, w_uv = rng.normal(size=(heads, nope, rank)) / 4, rng.normal(size=(heads, width, rank)) / 4
    q_nope, q_rope = rng.normal(size=(1, size, heads, nope)), rng.normal(size=(1, size, heads, rope))

    k = np.concatenate(
        [np.einsum("hnr,bsr->bshn", w_uk, latent), np.broadcast_to(k_rope[:, :, None], (1, size, heads, rope))], -1
    )
    v = np.einsum("hvr,bsr->bshv", w_uv, latent)
    q = np.concatenate([q_nope, q_rope], -1)
    flat = [ae.tensor(x.reshape(1, size, -1)) for x in (q, k, v)]
    want = ops.attention(*flat, heads, heads, 0.3).numpy()[:, -queries:]

    room = np.full((1, 3, rank + rope), np.nan)  # what lies past the end does not matter
    cache = np.concatenate([np.concatenate([latent, k_rope], -1), room], 1)
    q_latent = np.einsum("hnr,bthn->bthr", w_uk, q_nope[:, -queries:])
    o = ops.mla_decode(
        ae.tensor(q_latent.reshape(1, queries, -1)), ae.tensor(q_rope[:, -queries:].reshape(1, queries, -1)),
        cached(cache, dtype), lengths(size), heads, 0.3,
    ).numpy()  # fmt: skip
    got = np.einsum("hvr,bthr->bthv", w_uv, o.reshape(1, queries, heads, rank)).reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=0, atol=4 * STORED[dtype] * (1 + abs(want).max()))


@settings(max_examples=25)
@given(
    st.integers(1, 3),  # sequences
    st.sampled_from([1, 4]),  # heads
    st.sampled_from([16, 21]),  # R
    st.sampled_from(sorted(STORED)),
    st.integers(0, 2**31),
)
def test_absorbing_moves_the_expansion(batch: int, heads: int, rank: int, dtype: str, seed: int) -> None:
    """(W_uk c) . q = c . (W_uk^T q), and W_uv (sum of c) = sum of W_uv c; the batch may lie in one row."""
    rng, nope, rope, width = np.random.default_rng(seed), 6, 4, 5
    q, latent = rng.normal(size=(batch, heads, nope + rope)), rng.normal(size=(batch, heads, rank))
    kv_b = cached(rng.normal(size=(heads * (nope + width), rank)).astype(np.float32), dtype)
    by_head = np.asarray(kv_b.numpy(), np.float32).reshape(heads, nope + width, rank)
    q_latent, q_rope = ops.mla_absorb_query(ae.tensor(q.reshape(1, batch, -1)), kv_b, heads, rope)
    o = ops.mla_absorb_value(ae.tensor(latent.reshape(batch, 1, -1)), kv_b, heads, width)
    want = np.einsum("bhn,hnr->bhr", q[..., :nope], by_head[:, :nope])
    np.testing.assert_allclose(q_latent.numpy().reshape(want.shape), want, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(q_rope.numpy().reshape(batch, heads, rope), q[..., nope:].astype(np.float32))
    want = np.einsum("bhr,hvr->bhv", latent, by_head[:, nope:])
    np.testing.assert_allclose(o.numpy().reshape(want.shape), want, rtol=0, atol=1e-4)
    assert q_latent.shape[:2] == (1, batch) and o.shape[:2] == (batch, 1)


@pytest.mark.parametrize("dtype", sorted(STORED))
def test_storing_rounds_as_numpy_does(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, 50)).astype(np.float32)
    cache = cached(np.zeros((3, 4, 60), np.float32), dtype)
    ops.cache_store(ae.tensor(x), cache.array, np.array([6, -1, 0], np.int32), offset=10)
    want = cached(np.zeros((3, 4, 60), np.float32), dtype).array
    want[0, 2, 10:], want[2, 0, 10:] = cached(x, dtype).array[0, [0, 2]]
    np.testing.assert_array_equal(cache.numpy(), want)


def test_the_cache_says_what_it_wanted() -> None:
    q, cache = ae.tensor(np.zeros((2, 1, 8))), np.zeros((2, 5, 6))
    with pytest.raises(TypeError, match=r"\[mla_decode\] cache must be float32, bfloat16 or float16, got float64"):
        ops.mla_decode(q, q, Tensor(cache), lengths(1, 1), 4, 1.0)
    with pytest.raises(TypeError, match=r"lengths must be int32, got int64"):
        ops.mla_decode(q, q, cached(cache, "float32"), np.array([1, 1]), 4, 1.0)
    with pytest.raises(ValueError, match=r"cache must have shape \(2, 5, 4\), got \(2, 5, 6\)"):
        ops.mla_decode(q, q, cached(cache, "float32"), lengths(1, 1), 4, 1.0)
    with pytest.raises(ValueError, match=r"\[cache_store\] offset must be in \[0, 2\] for 8 of the 10 columns, got 3"):
        ops.cache_store(q, np.zeros((2, 5, 10), np.float32), lengths(0, 0), offset=3)
    with pytest.raises(ValueError, match=r"lengths\[1\] must be 0, or at least 1 and at most the cache's 5, got 6"):
        ops.decode_attention(q, *(cached(cache[..., :4], "float32") for _ in "kv"), lengths(1, 6), 4, 2, 1.0)
