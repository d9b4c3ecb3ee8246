"""The source layer, the size of its latent successor, and the linear algebra that the starts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Complex128 = npt.NDArray[np.complex128]
Weights = TypeVar("Weights", Float64, Complex128)


@dataclass(frozen=True)
class SourceAttention:
    """One grouped-query attention layer in Hugging Face row orders; H query heads, G key/value heads of width K."""

    q_proj: Array  # [H*K, D]
    k_proj: Array  # [G*K, D]
    v_proj: Array  # [G*K, D]
    o_proj: Array  # [D, H*K]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inv_freq: npt.NDArray[np.floating]  # [K/2], pairs are the halves (i, i + K/2)
    norm_eps: float = 1e-6
    attention_factor: float = 1.0  # multiplies cos and sin, as scaled rotary embeddings do
    q_norm: Array | None = None  # [K], RMSNorm of every query head before the rotation
    k_norm: Array | None = None
    q_bias: Array | None = None  # [H*K]
    k_bias: Array | None = None  # [G*K]
    v_bias: Array | None = None  # [G*K]

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True)
class LatentDims:
    """The sizes of a multi-head latent attention, under Hugging Face's config keys."""

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim


def check_dims(op: str, source: SourceAttention, dims: LatentDims) -> None:
    """Refuse sizes that this source cannot become."""
    width = source.o_proj.shape[1]
    if source.num_heads * dims.v_head_dim != width:
        raise ValueError(
            f"[{op}] num_heads * v_head_dim must equal o_proj's input width {width}, "
            f"got {source.num_heads} * {dims.v_head_dim}"
        )
    if dims.qk_rope_head_dim % 2:
        raise ValueError(f"[{op}] qk_rope_head_dim must be even, got {dims.qk_rope_head_dim}")
    if dims.kv_lora_rank < 1 or dims.kv_lora_rank > source.o_proj.shape[0]:
        raise ValueError(
            f"[{op}] kv_lora_rank must be 1 to the hidden size {source.o_proj.shape[0]}, got {dims.kv_lora_rank}"
        )


def as_pairs(weight: Float64, heads: int) -> Complex128:
    """Half-split rotary rows [heads*K, D] as complex pairs [heads, K/2, D]: a rotation becomes a factor exp(i w t)."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.asarray(halves[:, 0] + 1j * halves[:, 1])


def as_rows(pairs: Complex128) -> Float64:
    """The inverse of `as_pairs` per head: [heads, F, D] complex to [heads, 2F, D]."""
    return np.concatenate([pairs.real, pairs.imag], axis=1)


def interleave(pairs: Complex128) -> Float64:
    """Complex rows [..., P, D] as the interleaved rows (2p, 2p+1) of [..., 2P, D]."""
    stacked = np.stack([pairs.real, pairs.imag], axis=-2)
    return stacked.reshape(*pairs.shape[:-2], 2 * pairs.shape[-2], pairs.shape[-1])


def split_rotary(
    queries: Complex128, keys: Complex128, moment: Float64, head_weight: Float64, match: list[int]
) -> tuple[Complex128, Complex128, Complex128]:
    """Split the keys into one rotary key shared by all heads and what each head has left.

    Per matched frequency, the first complex principal component over the G key heads, each weighted by the energy of
    the queries that read it, becomes the shared key c; k_g = a_g c + rest, so a query reads c through conj(a_g).

    Args:
        queries, keys: [H, F, D] and [G, F, D], maps from the layer's input.
        moment: [D, D], second moment of that input.
        head_weight: [H], how much an error in one head's scores matters.
        match: the source frequency of each of the P student frequencies; a repeated one gets the next component.

    Returns:
        rotary queries [H, P, D], rotary key [P, D] of unit variance, rest of the keys [G, F, D].
    """
    group = len(queries) // len(keys)
    energy = np.einsum("hfd,hfd->hf", queries @ moment, queries.conj()).real * head_weight[:, None]
    rest = keys.copy()
    rotary_queries = np.zeros((len(queries), len(match), keys.shape[2]), complex)
    rotary_key = np.zeros((len(match), keys.shape[2]), complex)
    for p, f in enumerate(match):
        weight = np.sqrt(np.maximum(energy[:, f].reshape(-1, group).sum(1), 1e-30))
        weighted = weight[:, None] * rest[:, f]
        values, vectors = np.linalg.eigh(weighted @ moment @ weighted.conj().T)
        whole = weight[:, None] * keys[:, f]
        if values[-1] <= 1e-10 * np.einsum("gd,gd->", whole @ moment, whole.conj()).real:
            # Nothing is left of this frequency: a key that no query reads yet can still be trained.
            component, amplitude = keys[p % len(keys), f], np.zeros(len(keys), complex)
        else:
            component, amplitude = vectors[:, -1].conj() @ weighted, vectors[:, -1] / weight
        rest[:, f] -= amplitude[:, None] * component
        energy_left = (component @ moment @ component.conj()).real
        size = np.sqrt(energy_left) if energy_left > 1e-30 else 1.0
        rotary_key[p] = component / size
        rotary_queries[:, p] = queries[:, f] * np.repeat(amplitude * size, group).conj()[:, None]
    return rotary_queries, rotary_key, rest


def fit_key_width(
    queries: Float64, keys: Float64, query_moment: Float64, key_moment: Float64, width: int
) -> tuple[Float64, Float64]:
    """Give one head's queries [K, D] and keys [K, R] another width, keeping their products as well as it allows.

    Narrower keeps the directions in which queries and keys meet most; wider adds keys that no query reads yet, so that
    nothing changes but both sides can be trained.
    """
    own = len(keys)
    if width >= own:
        spare = np.zeros((width - own, keys.shape[1]))
        spare[np.arange(width - own), np.arange(width - own) % keys.shape[1]] = np.sqrt(np.mean(keys**2))
        return np.pad(queries, ((0, width - own), (0, 0))), np.concatenate([keys, spare])
    root, inverse = roots(query_moment)
    values, vectors = np.linalg.eigh(root @ key_moment @ root)
    top = vectors[:, ::-1][:, :width]
    # The singular value is shared between both sides, so that neither starts far larger than the other.
    share = np.sqrt(np.sqrt(np.maximum(values[::-1][:width], 1e-12 * max(values[-1], 1e-30))))
    return share[:, None] * (top.T @ inverse @ queries), (top.T @ root @ keys) / share[:, None]


def roots(matrix: Float64) -> tuple[Float64, Float64]:
    """Symmetric square root and its inverse, with eigenvalues clamped from below (they may be zero or negative)."""
    values, vectors = np.linalg.eigh(matrix)
    root = np.sqrt(np.maximum(values, 1e-10 * max(values[-1], 1e-30)))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def principal_latents(features: Float64, moment: Float64, rank: int) -> Float64:
    """The `rank` input directions [rank, D] that explain `features` [M, D] best under `moment`, of unit variance."""
    values, vectors = np.linalg.eigh(features @ moment @ features.T)
    kept = min(rank, int((values > 1e-9 * max(values[-1], 1e-30)).sum()))
    latents = (vectors[:, ::-1][:, :kept].T @ features) / np.sqrt(values[::-1][:kept, None])
    if kept < rank:
        # Beyond the features' own rank, spare latents follow what is left of the input: zero rows never train.
        left = np.eye(len(moment)) - moment @ latents.T @ latents
        values, vectors = np.linalg.eigh(left @ moment @ left.T)
        size = np.sqrt(np.maximum(values[::-1][: rank - kept, None], 1e-9 * np.trace(moment)))
        size[size == 0] = 1  # the input is nothing but zeros
        latents = np.concatenate([latents, vectors[:, ::-1][:, : rank - kept].T @ left / size])
    return np.asarray(latents)


def balanced(queries: Weights, keys: Weights) -> tuple[Weights, Weights]:
    """The same products row by row [..., D], with both rows of a pair equally large.

    An optimizer moves every weight by the same step: a small key beside a large query would be thrown about.
    """
    size_q, size_k = (np.sqrt(np.mean(np.abs(x) ** 2, axis=-1, keepdims=True)) for x in (queries, keys))
    used = (size_q > 0) & (size_k > 0)
    factor = np.sqrt(np.where(used, size_q, 1) / np.where(used, size_k, 1))
    return queries / factor, keys * factor


def assemble(
    source: SourceAttention,
    dims: LatentDims,
    queries: Float64,
    rotary_queries: Complex128,
    latents: Float64,
    rotary_key: Complex128,
    keys: Float64,
    values: Float64,
) -> dict[str, Array]:
    """Put the parts in DeepSeek's row orders.

    Args:
        queries, rotary_queries: [H, dn, D] and [H, dr/2, D], for the source's softmax scale.
        latents, rotary_key: [r, D] and [dr/2, D].
        keys, values: [H, dn, r] and [H, dv, r].
    """
    width = source.o_proj.shape[0]
    # The student divides by the root of its own head width, the source by that of its own.
    scale = np.sqrt(dims.qk_head_dim / source.head_dim) * source.attention_factor**2
    queries, keys = balanced(queries * scale, keys)
    # One rotary key serves all heads: it is balanced against all their queries together.
    together = rotary_queries.transpose(1, 0, 2).reshape(len(rotary_key), -1) * scale
    together, rotary_key = balanced(together, rotary_key)
    rotary_queries = together.reshape(len(rotary_key), len(queries), -1).transpose(1, 0, 2)
    q_proj = np.concatenate([queries, interleave(rotary_queries)], axis=1)
    parts = {
        "q_proj": q_proj.reshape(-1, width),
        "kv_a_proj_with_mqa": np.concatenate([latents, interleave(rotary_key)]),
        "kv_a_layernorm": np.ones(dims.kv_lora_rank),
        "kv_b_proj": np.concatenate([keys, values], axis=1).reshape(-1, dims.kv_lora_rank),
        "o_proj": source.o_proj,
    }
    return {name: part.astype(np.float32) for name, part in parts.items()}
