"""Decoding speed: what is measured is what the cache promises; no time is asserted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit.evaluate import decode_speed as speed
from attnedit.models import decode
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig


def test_a_repeated_cache_is_that_of_repeated_tokens() -> None:
    """In the first layer a value depends on its token alone."""
    model = random_decoder(tiny_config(attention=(GQAConfig(4, 2, 8),)))
    cache = speed.cached(model, np.arange(5, dtype=np.int32), 14)
    assert cache.lengths.tolist() == [13] and cache.nbytes == model.config.kv_numbers(14) * 4
    (values,) = (layer.arrays[1].numpy()[0, :13] for layer in cache.layers)
    np.testing.assert_array_equal(values, np.concatenate([values[:5]] * 3)[:13])
    tokens = np.arange(14) % 5
    want = (
        model.layers[0]
        .self_attn.v_proj(  # type: ignore[union-attr]
            model.layers[0].input_layernorm(model.embed_tokens(tokens[None].astype(np.int32)))
        )
        .numpy()[0]
    )
    decode(model, cache, np.array([3], np.int32), np.ones(1, bool))
    np.testing.assert_allclose(values, want[:13], rtol=0, atol=1e-5)


def test_speeds_count_the_arrays() -> None:
    mixed = (GQAConfig(4, 2, 8), MLAConfig(4, 12, 6, 4, 8), GateSWAConfig(4, 2, 8, sliding_window=3))
    model = random_decoder(tiny_config(attention=mixed))
    assert speed.contexts_of(model) == [64]
    for context in (2, 64):
        measured = speed.decode_speed(model, context)
        assert measured.cache_bytes == model.config.kv_numbers(context) * 4
        assert 0 < measured.slowest <= measured.tokens_per_second <= measured.fastest
    with pytest.raises(ValueError, match="context must be at least 2, got 1"):
        speed.decode_speed(model, 1)


def test_both_folders_and_the_peer_where_there_is_one(tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher", words(20, 0))
    student = ae.export(
        ae.edit(ae.load(teacher), ae.MLA(12, qk_rope_head_dim=8, init="random")), tmp_path / "student", source=teacher
    )
    compared = speed.compare_decoding(student, teacher, "/no/python")
    assert [each["cache_bytes"] for each in compared["decode"]["teacher"]] == [64 * 4 * 2 * 2 * 16]
    assert [each["cache_bytes"] for each in compared["decode"]["student"]] == [64 * 4 * 2 * (12 + 8)]
    assert compared["transformers"]["teacher"] == {"absent": "/no/python: No such file or directory"}
    json.dumps(compared)
    peer = speed.transformers_speed(teacher, [64], sys.executable)
    assert ("torch" in peer["absent"]) if "absent" in peer else peer["speeds"][0]["cache_bytes"] == 64 * 4 * 2 * 2 * 16
