"""Token by token over a cache equals one forward pass, and the cache is as large as was said."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit.evaluate.cache import CACHE_BYTES, cache_size
from attnedit.models import CACHE_DTYPES, Cache, Decoder, DecoderConfig, decode, prefill
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig, RopeParameters

YARN = RopeParameters(
    rope_type="yarn", max_position_embeddings=64,
    scaling={"factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0},
)  # fmt: skip
GQA = GQAConfig(4, 2, 8, qk_norm=True)
LAYERS = {
    "gqa": (GQA, GQAConfig(4, 2, 8, qkv_bias=True)),
    "gqa with a window": (GQA, replace(GQA, sliding_window=7)),
    "mla": (MLAConfig(4, 12, 6, 4, 8), MLAConfig(4, 13, 8, 6, 8)),
    "gate_swa": (
        GateSWAConfig(4, 2, 8, qk_norm=True, sliding_window=5),
        GateSWAConfig(4, 2, 8, gate="softplus", gate_per="element"),
        GateSWAConfig(4, 1, 8, sliding_window=64, gate_per="element"),
    ),
    "mixed": (GQA, MLAConfig(4, 12, 6, 4, 8), GateSWAConfig(4, 2, 8, sliding_window=3)),
}
LENGTH = 40


def continued(model: Decoder, rows: list[np.ndarray], cache: Cache, prompts: list[int]) -> list[np.ndarray]:
    """The logits behind each token from the prompts' last on; a sequence ends with its row."""
    got = [[prefill(model, cache, b, row[:n])] for b, (row, n) in enumerate(zip(rows, prompts, strict=True))]
    while True:
        active = np.array([cache.lengths[b] < len(row) for b, row in enumerate(rows)])
        if not active.any():
            return [np.array(each) for each in got]
        tokens = np.array([row[min(cache.lengths[b], len(row) - 1)] for b, row in enumerate(rows)], np.int32)
        logits = decode(model, cache, tokens, active)
        for b in np.flatnonzero(active):
            got[b].append(logits[b].copy())


@pytest.mark.parametrize("rope", [RopeParameters(max_position_embeddings=64), YARN], ids=["default", "yarn"])
@pytest.mark.parametrize("name", LAYERS)
def test_token_by_token_is_one_forward_pass(name: str, rope: RopeParameters) -> None:
    """Prompts of unequal lengths, from one token to more than the windows; sequences that end early."""
    model = random_decoder(tiny_config(attention=LAYERS[name], rope=rope))
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, 37, n).astype(np.int32) for n in (LENGTH, 29, 11)]
    prompts = [1, 17, 4]
    got = continued(model, rows, Cache(model.config, 3, LENGTH), prompts)
    for row, n, logits in zip(rows, prompts, got, strict=True):
        want = model.logits(row[None]).numpy()[0, n - 1 :]
        np.testing.assert_allclose(logits, want, rtol=0, atol=2e-5 * abs(want).max())


@pytest.mark.parametrize("name", ["gqa", "mla", "gate_swa"])
def test_a_sequence_has_the_same_bits_alone(name: str) -> None:
    model = random_decoder(tiny_config(attention=LAYERS[name]))
    rng = np.random.default_rng(3)
    rows, prompts = [rng.integers(0, 37, n).astype(np.int32) for n in (30, 12)], [9, 3]
    together = continued(model, rows, Cache(model.config, 2, 30), prompts)
    for row, n, logits in zip(rows, prompts, together, strict=True):
        alone = continued(model, [row], Cache(model.config, 1, 34), [n])
        np.testing.assert_array_equal(alone[0], logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gqa", "mla", "gate_swa"])
def test_a_cache_of_halves_is_near(name: str, dtype: str) -> None:
    model = random_decoder(tiny_config(attention=LAYERS[name]))
    row = np.random.default_rng(4).integers(0, 37, LENGTH).astype(np.int32)
    cache = Cache(model.config, 1, LENGTH, dtype)
    got = continued(model, [row], cache, [10])[0]
    want = model.logits(row[None]).numpy()[0, 9:]
    np.testing.assert_allclose(got, want, rtol=0, atol={"bfloat16": 0.08, "float16": 0.01}[dtype] * abs(want).max())
    assert cache.nbytes == model.config.kv_numbers(LENGTH) * 2


def qwen3_8b() -> DecoderConfig:
    layer = GQAConfig(32, 8, 128, qk_norm=True)
    rope = RopeParameters(1e6, max_position_embeddings=40_960)
    return tiny_config(
        vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, rope=rope, attention=(layer,) * 36
    )


@pytest.mark.parametrize(
    ("target", "full", "percent"),
    [(ae.MLA(512, qk_rope_head_dim=64), None, 28.1), (ae.GateSWA(128), (*range(0, 36, 6), 35), 19.8)],
)
def test_the_arrays_are_as_large_as_planned_on_qwen3_8b(
    target: ae.MLA | ae.GateSWA, full: tuple[int, ...] | None, percent: float
) -> None:
    """Memory of the pool takes no pages before it is written."""
    if ae.runtime.mem_get_info()[0] < 6 << 30:
        pytest.skip("less than 6 GiB of memory are free: the teacher's cache has 4.5")
    source = qwen3_8b()
    attention = target.attention(source) if full is None else target.attention(source, full)  # type: ignore[call-arg]
    edited, context = replace(source, attention=attention), 32_768
    sizes = []
    for config in (source, edited):
        cache = Cache(config, 1, context, "bfloat16")
        counted = sum(array.array.nbytes for layer in cache.layers for array in layer.arrays)
        assert counted == cache.nbytes == cache_size(config, context).bytes_at_context
        assert counted == config.kv_numbers(context) * CACHE_BYTES
        sizes.append(counted)
        del cache
        ae.runtime.empty_cache()
    assert round(100 * sizes[1] / sizes[0], 1) == percent


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("length", [1, 5, 20])
def test_every_kind_counts_its_arrays(name: str, length: int) -> None:
    config = tiny_config(attention=LAYERS[name])
    for dtype in CACHE_DTYPES:
        size = np.dtype(CACHE_DTYPES[dtype]).itemsize
        assert Cache(config, 3, length, dtype).nbytes == 3 * config.kv_numbers(length) * size


def test_what_does_not_fit_is_refused() -> None:
    model = random_decoder(tiny_config())
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"):
        Cache(model.config, 1, 8, "int8")
    with pytest.raises(MemoryError, match=r"the cache of 1 x 1,099,511,627,776 tokens in float32 must fit the memory"):
        Cache(model.config, 1, 2**40)
    cache = Cache(model.config, 1, 3)
    with pytest.raises(ValueError, match="prompt must have 1 to 3 tokens, as the cache holds, got 4"):
        prefill(model, cache, 0, np.zeros(4, np.int32))
    prefill(model, cache, 0, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="the cache holds 3 tokens, which a sequence has already"):
        decode(model, cache, np.zeros(1, np.int32), np.ones(1, bool))
