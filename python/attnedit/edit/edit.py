"""Teacher -> student: what the edit leaves alone is shared, the new attention is initialised from the old."""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import numpy as np
from threadpoolctl import threadpool_limits

from attnedit import ops
from attnedit.autograd import no_grad
from attnedit.edit.identity_gate import identity_gate
from attnedit.edit.regression import LatentDims, SourceAttention, regression_latent
from attnedit.edit.starts import random_latent, svd_latent
from attnedit.edit.targets import MLA, GateSWA
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import GQA, MLAConfig
from attnedit.tensor import Array, Tensor, full, tensor

CALIBRATION_TOKENS = 8_192
AUTO_TOKENS = 16_384
SHORTLIST = 2  # candidates measured per full layer that auto picks


def edit(teacher: Decoder, target: MLA | GateSWA, calibration: Array | None = None, seed: int = 0) -> Decoder:
    """A student with the target's attention. Every array that the edit does not change is the teacher's own.

    calibration: int32 [R, T], rows of the text to train on; needed by init="regression" and full_layers="auto". The
    first 8,192 tokens of it are used. Raises ValueError where the target does not fit the source.
    """
    if isinstance(target, MLA):
        student = student_of(teacher, replace(teacher.config, attention=target.attention(teacher.config)))
        # numpy's own BLAS threads would fight ours for the cores, and its sums depend on how many there are.
        with threadpool_limits(limits=1, user_api="blas"):
            _latent(student, teacher, target, calibration, seed)
        return student
    if isinstance(target, GateSWA):
        full_layers = target.fixed_full_layers(teacher.config)
        if full_layers is None:
            full_layers = auto_full_layers(teacher, target, _rows(calibration, 'full_layers="auto"', AUTO_TOKENS))
        return _gated(teacher, target, full_layers)
    assert_never(target)


def student_of(teacher: Decoder, config: DecoderConfig) -> Decoder:
    """A decoder that shares the teacher's parameters wherever path and shape are the same; the others are unset."""
    student = Decoder(config)
    shapes = {path: parameter.shape for path, parameter in student.named_parameters()}
    for path, parameter in teacher.named_parameters():
        if shapes.get(path) == parameter.shape:
            student.set_parameter(path, parameter)
    return student


def _set_attention(student: Decoder, layer: int, arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        student.layers[layer].self_attn.set_parameter(f"{name}.weight", tensor(array))


def _rows(calibration: Array | None, what: str, tokens: int) -> Array:
    if calibration is None:
        raise ValueError(f"[edit] calibration must be rows of tokens for {what}, got none")
    if calibration.ndim != 2 or calibration.size == 0:
        raise ValueError(f"[edit] calibration must have shape (rows, tokens), none of them 0, got {calibration.shape}")
    return np.ascontiguousarray(calibration[: max(1, tokens // calibration.shape[1])], dtype=np.int32)


def source_attention(attention: GQA) -> SourceAttention:
    """A layer's weights as float32, with its rotary frequencies."""
    c = attention.config

    def values(parameter: Tensor | None) -> Array | None:
        return None if parameter is None else np.asarray(parameter.numpy(), dtype=np.float32)

    def must(parameter: Tensor) -> Array:
        return np.asarray(parameter.numpy(), dtype=np.float32)

    inv_freq, factor = attention.rope.parameters.frequencies(c.head_dim)
    return SourceAttention(
        q_proj=must(attention.q_proj.weight),
        k_proj=must(attention.k_proj.weight),
        v_proj=must(attention.v_proj.weight),
        o_proj=must(attention.o_proj.weight),
        q_norm=values(attention.q_norm.weight) if attention.q_norm else None,
        k_norm=values(attention.k_norm.weight) if attention.k_norm else None,
        q_bias=values(attention.q_proj.bias),
        k_bias=values(attention.k_proj.bias),
        v_bias=values(attention.v_proj.bias),
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        norm_eps=c.norm_eps,
        inv_freq=inv_freq,
        attention_factor=factor,
    )


def _latent(student: Decoder, teacher: Decoder, target: MLA, calibration: Array | None, seed: int) -> None:
    """Initialises the MLA layers, from the first to the last."""
    hidden: Tensor | None = None
    if target.init == "regression":
        with no_grad():
            hidden = teacher.embed_tokens(_rows(calibration, 'init="regression"', CALIBRATION_TOKENS))
    for i, config in enumerate(student.config.attention):
        block = teacher.layers[i]
        with no_grad():
            u = None if hidden is None else block.input_layernorm(hidden)
        if hidden is not None and not np.isfinite(hidden.numpy()).all():
            raise ValueError(
                f"[edit] the teacher's hidden state before layer {i} holds NaN or Inf: its weights overflow"
            )
        if isinstance(config, MLAConfig) and config != teacher.config.attention[i]:
            assert isinstance(block.self_attn, GQA)
            source = source_attention(block.self_attn)
            dims = LatentDims(config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim)
            if u is not None:
                student_freq, _ = student.config.rope.frequencies(config.qk_rope_head_dim)
                arrays = regression_latent(source, dims, u.numpy(), student_freq)
            elif target.init == "svd":
                arrays = svd_latent(source, dims)
            else:
                arrays = random_latent(source, dims, np.random.default_rng((seed, i)))
            _set_attention(student, i, arrays)
        if hidden is not None and u is not None:
            with no_grad():
                hidden = block.after_attention(hidden, block.self_attn(u))


def _gated(teacher: Decoder, target: GateSWA, full_layers: tuple[int, ...]) -> Decoder:
    """The gate starts as the identity: g_proj 0, o_proj divided by the gate's value there."""
    config = replace(teacher.config, attention=target.attention(teacher.config, full_layers))
    student = student_of(teacher, config)
    for i, (ours, theirs) in enumerate(zip(config.attention, teacher.config.attention, strict=True)):
        if ours != theirs:
            o_proj = np.asarray(teacher.layers[i].self_attn.o_proj.weight.numpy(), dtype=np.float32)
            heads, per = ours.num_attention_heads, target.gate_per
            _set_attention(
                student, i,
                identity_gate(o_proj, target.gate, per, heads, o_proj.shape[1] // heads, config.hidden_size),
            )  # fmt: skip
    return student


def auto_full_layers(teacher: Decoder, target: GateSWA, rows: Array) -> tuple[int, ...]:
    """Which layers keep full attention: one after the other, the one that brings KL(teacher || student) down most.

    A layer's own error under the window shortens the list of candidates where there are many; the KL itself decides.
    """
    config = teacher.config
    count = min(GateSWA.auto_count(config), config.num_hidden_layers)
    candidates = _by_window_error(teacher, target, rows)[: max(8, SHORTLIST * count)]
    with no_grad():
        expected = teacher(rows)
        weights = full((rows.size,), 1 / rows.size)
        chosen: tuple[int, ...] = ()
        for _ in range(count):

            def divergence(layer: int, chosen: tuple[int, ...] = chosen) -> float:
                student = _gated(teacher, target, (*chosen, layer))
                return ops.fused_kl(student(rows), teacher.head, expected, teacher.head, weights).loss.item()

            chosen = (*chosen, min((c for c in candidates if c not in chosen), key=divergence))
    return tuple(sorted(chosen))


def _by_window_error(teacher: Decoder, target: GateSWA, rows: Array) -> list[int]:
    """Layers by the energy-normalised error that the window alone causes in them, largest first."""
    windowed = _gated(teacher, target, ())
    errors = {}
    with no_grad():
        weights = full((rows.size,), 1.0)
        h = teacher.embed_tokens(rows)
        for i, block in enumerate(teacher.layers):
            u = block.input_layernorm(h)
            a = block.self_attn(u)
            if windowed.config.attention[i] != teacher.config.attention[i]:
                errors[i] = ops.fused_mse(windowed.layers[i].self_attn(u), a, weights).loss.item()
            h = block.after_attention(h, a)
    return sorted(errors, key=lambda i: -errors[i])
