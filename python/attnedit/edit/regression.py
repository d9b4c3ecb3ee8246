"""The latent start by regression on activations: what the new layer needs is read off the source's own attention."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attnedit.edit.latent_form import (
    Array,
    Float64,
    LatentDims,
    SourceAttention,
    as_pairs,
    as_rows,
    assemble,
    check_dims,
    fit_key_width,
    principal_latents,
    roots,
    split_rotary,
)
from attnedit.edit.observe import Observed, attend_latent, damped, normed_latent, observe, solve_towards

__all__ = ["LatentDims", "SourceAttention", "regression_latent"]

# To first order a key's error costs more than it really does: of .25, .35, .5, 1 and 2 this weight gave the smallest
# divergence on real text.
KEY_WEIGHT = 0.5


def regression_latent(
    source: SourceAttention,
    dims: LatentDims,
    u: Array,
    inv_freq_student: npt.NDArray[np.floating],
    *,
    starts: Array | None = None,
    target: Array | None = None,
    refit_o_proj: bool = True,
) -> dict[str, Array]:
    """A latent attention that imitates the source's on calibration text.

    One rotary key shared by all heads is the principal component of the heads' keys per frequency. What it leaves
    becomes the part without rotation, read by queries that are multiplied by the mean phase E[exp(i w (t - j))] under
    the source's attention, so that fast frequencies vanish by themselves. Latents are the principal directions of these
    keys and the values, both weighted by their effect on the layer's output; `kv_b_proj` and `o_proj` are least squares
    on what the normalised latent really gives.

    Args:
        u: [rows, T, D], the normed hidden states that feed this layer; a few tokens per row of `o_proj` at least.
        inv_freq_student: [qk_rope_head_dim / 2]; every one takes over the nearest of the source's frequencies.
        starts: [rows, T], where in its row each token's document begins; None: a row is one document.
        target: [rows, T, D], what the layer should give; by default what the source gives for `u`. When `u` comes from
            an edited student, its own error can be put in here: the teacher's stream minus the student's, plus the
            teacher's attention output.
        refit_o_proj: False keeps the inherited one.
    """
    check_dims("regression_latent", source, dims)
    width = source.o_proj.shape[0]
    if u.ndim != 3 or u.shape[2] != width:
        raise ValueError(f"[regression_latent] u must have shape (rows, T, {width}), got {u.shape}")
    if target is not None and target.shape != u.shape:
        raise ValueError(f"[regression_latent] target must have shape {u.shape}, got {target.shape}")
    if inv_freq_student.shape != (dims.qk_rope_head_dim // 2,):
        raise ValueError(
            f"[regression_latent] inv_freq_student must have shape ({dims.qk_rope_head_dim // 2},), "
            f"got {inv_freq_student.shape}"
        )
    distance = np.abs(np.log(np.asarray(inv_freq_student)[:, None]) - np.log(source.inv_freq))
    match = [int(f) for f in distance.argmin(axis=1)]
    seen = observe(source, u, np.concatenate([source.inv_freq, source.inv_freq[match] - inv_freq_student]), starts)
    pairs = len(source.inv_freq)

    queries, keys = as_pairs(seen.q_map, source.num_heads), as_pairs(seen.k_map, source.num_kv_heads)
    rotary_queries, rotary_key, rest = split_rotary(queries, keys, seen.moment, seen.spread, match)
    rotary_queries *= seen.phase[:, pairs:, None]  # 1 where the frequencies are equal
    own_queries = as_rows(queries * seen.phase[:, :pairs, None])
    own_keys = as_rows(rest)

    features = _weighted_features(source, seen, own_queries, own_keys)
    latents = principal_latents(features, seen.moment, dims.kv_lora_rank)

    outputs = np.concatenate([own_keys.reshape(-1, width), seen.v_map])
    gram = np.zeros((dims.kv_lora_rank, dims.kv_lora_rank))
    products = np.zeros((dims.kv_lora_rank, len(outputs)))
    for row in u:
        c = normed_latent(row, latents).astype(np.float64)
        gram += c.T @ c
        products += c.T @ (row @ outputs.T)
    up = np.linalg.solve(damped(gram, 1e-6), products)
    key_map, value_map = np.split(up.T.reshape(-1, source.head_dim, dims.kv_lora_rank), 2)
    latent_moment = gram / (u.shape[0] * u.shape[1])
    fitted = [
        fit_key_width(q, k, q @ seen.moment @ q.T, k @ latent_moment @ k.T, dims.qk_nope_head_dim)
        for q, k in zip(own_queries, np.repeat(key_map, source.group, axis=0), strict=True)
    ]
    start = assemble(
        source,
        dims,
        np.stack([q for q, _ in fitted]),
        rotary_queries,
        latents,
        rotary_key,
        np.stack([k for _, k in fitted]),
        np.repeat(value_map, source.group, axis=0),
    )
    if refit_o_proj:
        start["o_proj"] = _refit_o_proj(
            source, dims, u, inv_freq_student, start, seen.output if target is None else target, starts
        )
    return start


def _weighted_features(source: SourceAttention, seen: Observed, queries: Float64, keys: Float64) -> Float64:
    """Maps [M, D] to keys and values, scaled so that equal errors in them cost the layer's output the same.

    A key's error is seen by the queries of its group and moves the output by the spread of the attended values; a
    value's error passes o_proj, summed over the group: heads that share it attend to much the same places.
    """
    group, scale = source.group, source.attention_factor**4 / source.head_dim
    weighted = []
    for g, key in enumerate(keys):
        heads = range(g * group, (g + 1) * group)
        read = sum(seen.spread[h] * (queries[h] @ seen.moment @ queries[h].T) for h in heads)
        weighted.append(KEY_WEIGHT * roots(np.asarray(scale * read))[0] @ key)
    width = source.o_proj.shape[0]
    shared = source.o_proj.astype(np.float64).reshape(width, -1, group, source.head_dim).sum(2).reshape(width, -1)
    return np.concatenate([*weighted, np.linalg.qr(shared, mode="r") @ seen.v_map])


def _refit_o_proj(
    source: SourceAttention,
    dims: LatentDims,
    u: Array,
    inv_freq: npt.NDArray[np.floating],
    start: dict[str, Array],
    target: Array,
    starts: Array | None,
) -> Array:
    inherited = source.o_proj.astype(np.float64)
    gram = np.zeros((inherited.shape[1], inherited.shape[1]))
    products = np.zeros(inherited.T.shape)
    for i, (row, wanted) in enumerate(zip(u, target, strict=True)):
        heads = attend_latent(dims, source.num_heads, row, inv_freq, start, None if starts is None else starts[i])
        x = np.concatenate(list(heads), axis=1).astype(np.float64)
        gram += x.T @ x
        products += x.T @ wanted
    return solve_towards(gram, products, u.shape[0] * u.shape[1], inherited.T).T.astype(np.float32)
