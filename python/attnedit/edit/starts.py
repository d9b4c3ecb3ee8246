"""The latent starts that need no activations: random, and a decomposition of the weights."""

from __future__ import annotations

import numpy as np

from attnedit.edit.latent_form import (
    Array,
    LatentDims,
    SourceAttention,
    as_pairs,
    as_rows,
    assemble,
    check_dims,
    fit_key_width,
    principal_latents,
    split_rotary,
)
from attnedit.edit.observe import head_norm_map


def random_latent(
    source: SourceAttention, dims: LatentDims, rng: np.random.Generator, std: float = 0.02
) -> dict[str, Array]:
    """New projections from N(0, std^2) beside the inherited `o_proj`."""
    check_dims("random_latent", source, dims)
    width = source.o_proj.shape[0]
    heads = source.num_heads

    def normal(rows: int, columns: int) -> Array:
        return (std * rng.standard_normal((rows, columns))).astype(np.float32)

    return {
        "q_proj": normal(heads * dims.qk_head_dim, width),
        "kv_a_proj_with_mqa": normal(dims.kv_lora_rank + dims.qk_rope_head_dim, width),
        "kv_a_layernorm": np.ones(dims.kv_lora_rank, np.float32),
        "kv_b_proj": normal(heads * (dims.qk_nope_head_dim + dims.v_head_dim), dims.kv_lora_rank),
        "o_proj": source.o_proj.astype(np.float32),
    }


def svd_latent(source: SourceAttention, dims: LatentDims) -> dict[str, Array]:
    """Factor the stacked keys and values, taking the layer's input as white; biases are left out.

    The student's frequencies are taken to be the source's, evenly thinned to qk_rope_head_dim / 2.
    """
    check_dims("svd_latent", source, dims)
    stride, last = source.head_dim / max(dims.qk_rope_head_dim, 1), source.head_dim // 2 - 1
    match = [min(round(p * stride), last) for p in range(dims.qk_rope_head_dim // 2)]
    moment = np.eye(source.q_proj.shape[1])
    queries = as_pairs(head_norm_map(source.q_proj, source.q_norm, moment), source.num_heads)
    keys = as_pairs(head_norm_map(source.k_proj, source.k_norm, moment), source.num_kv_heads)
    rotary_queries, rotary_key, rest = split_rotary(queries, keys, moment, np.ones(source.num_heads), match)
    own_queries, own_keys = as_rows(queries), as_rows(rest)
    values = source.v_proj.astype(np.float64).reshape(own_keys.shape)

    stacked = np.concatenate([own_keys, values]).reshape(-1, len(moment))
    latents = principal_latents(stacked, moment, dims.kv_lora_rank)
    key_map, value_map = own_keys @ latents.T, values @ latents.T
    fitted = [
        fit_key_width(q, k, q @ q.T, k @ k.T, dims.qk_nope_head_dim)
        for q, k in zip(own_queries, np.repeat(key_map, source.group, axis=0), strict=True)
    ]
    return assemble(
        source,
        dims,
        np.stack([q for q, _ in fitted]),
        rotary_queries,
        latents,
        rotary_key,
        np.stack([k for _, k in fitted]),
        np.repeat(value_map, source.group, axis=0),
    )
