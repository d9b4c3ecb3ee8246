"""Teacher -> student: what the edit leaves alone is shared, the new attention is initialised from the old."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np
from threadpoolctl import threadpool_limits

from attnedit import ops
from attnedit.activations import forward, layers, passes
from attnedit.autograd import no_grad
from attnedit.checked import checked, shown
from attnedit.checkpoint import write_arrays
from attnedit.data import TrainingRows, available, row_length, starts_of, tokens_of
from attnedit.edit.identity_gate import identity_gate
from attnedit.edit.regression import LatentDims, SourceAttention, regression_latent
from attnedit.edit.starts import random_latent, svd_latent
from attnedit.edit.targets import MLA, GateSWA
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.decoder import edited_layers, overflow
from attnedit.models.load import map_parameters
from attnedit.models.pages import give_back_all
from attnedit.nn import GQA, MLAConfig
from attnedit.tensor import Array, Tensor, full, tensor

CALIBRATION_TOKENS = 8_192
AUTO_TOKENS = 16_384
SHORTLIST = 2  # candidates measured per full layer that auto picks


def edit(
    teacher: Decoder,
    target: MLA | GateSWA,
    calibration: TrainingRows | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Decoder:
    """A student with the target's attention. Every array that the edit does not change is the teacher's own.

    calibration: int32 [R, T], rows of the text to train on; needed by init="regression" and full_layers="auto". The
    first 8,192 tokens of it are used. folder: where the new arrays go, layer by layer, instead of into memory; layers
    that are there already are not computed again. Raises ValueError where the target does not fit the source.
    """
    if not isinstance(target, MLA | GateSWA):
        raise TypeError(f"[edit] target must be an MLA or a GateSWA, got {shown(target)}")
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in vars(target).items()}
    target = checked(type(target), given, "[edit] ")
    if isinstance(target, MLA):
        student = student_of(teacher, replace(teacher.config, attention=target.attention(teacher.config)))
        # numpy's own BLAS threads would fight ours for the cores, and its sums depend on how many there are.
        with threadpool_limits(limits=1, user_api="blas"):
            _latent(student, teacher, target, calibration, seed, folder)
        return student
    if isinstance(target, GateSWA):
        full_layers = target.fixed_full_layers(teacher.config)
        if full_layers is None:
            full_layers = auto_full_layers(teacher, target, *_rows(calibration, 'full_layers="auto"', AUTO_TOKENS))
        return _gated(teacher, target, full_layers, folder)
    assert_never(target)


def student_of(teacher: Decoder, config: DecoderConfig) -> Decoder:
    """A decoder that shares the teacher's parameters wherever path and shape are the same; the others are unset."""
    student = Decoder(config)
    shapes = {path: parameter.shape for path, parameter in student.named_parameters()}
    for path, parameter in teacher.named_parameters():
        if shapes.get(path) == parameter.shape:
            student.set_parameter(path, parameter)
    return student


def layer_path(folder: Path, layer: int) -> Path:
    """Where the new arrays of a layer are kept."""
    return folder / f"layer_{layer:03d}.safetensors"


def _set_attention(student: Decoder, layer: int, arrays: Mapping[str, Array], folder: Path | None) -> None:
    attention, weights = student.layers[layer].self_attn, {f"{name}.weight": array for name, array in arrays.items()}
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"[edit] layer {layer}: {name} would hold NaN or Inf: the teacher's numbers overflow")
    if folder is not None:
        write_arrays(layer_path(folder, layer), weights)
        map_parameters(attention, layer_path(folder, layer))
        return
    for name, array in weights.items():
        attention.set_parameter(name, tensor(array))


def _rows(calibration: TrainingRows | None, what: str, tokens: int) -> tuple[Array, Array | None]:
    """The first rows and their document_starts."""
    if calibration is None:
        raise ValueError(f"[edit] calibration must be rows of tokens for {what}, got none")
    if isinstance(calibration, np.ndarray) and (calibration.ndim != 2 or calibration.size == 0):
        raise ValueError(f"[edit] calibration must have shape (rows, tokens), none of them 0, got {calibration.shape}")
    first = slice(0, available(calibration, max(1, tokens // row_length(calibration))))
    return np.ascontiguousarray(tokens_of(calibration, first), dtype=np.int32), starts_of(calibration, first)


def _begins(starts: Array | None, batches: Sequence[object]) -> Sequence[Array | None]:
    """The document_starts of each pass."""
    return [None] * len(batches) if starts is None else passes(starts)


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


def _latent(
    student: Decoder,
    teacher: Decoder,
    target: MLA,
    calibration: TrainingRows | None,
    seed: int,
    folder: Path | None,
) -> None:
    """Initialises the MLA layers, from the first to the last."""
    edited = edited_layers(student.config, teacher.config)
    done = {i for i in edited if folder is not None and layer_path(folder, i).exists()}
    for i in done:
        assert folder is not None
        map_parameters(student.layers[i].self_attn, layer_path(folder, i))
    last = max((i for i in edited if i not in done), default=-1)
    if last < 0:
        return
    hidden: list[Tensor] = []
    starts: Array | None = None
    if target.init == "regression":
        with no_grad():
            rows, starts = _rows(calibration, 'init="regression"', CALIBRATION_TOKENS)
            hidden = [teacher.embed_tokens(part) for part in passes(rows)]
        give_back_all(teacher.embed_tokens)
    for i, (block,) in enumerate(layers(teacher, end=last + 1)):
        with no_grad():
            normed = [block.input_layernorm(h) for h in hidden]
        if not all(np.isfinite(h.numpy()).all() for h in hidden):
            raise ValueError(
                f"[edit] the teacher's hidden state before layer {i} holds NaN or Inf: its weights overflow"
            )
        if i in edited and i not in done:
            config = student.config.attention[i]
            assert isinstance(block.self_attn, GQA) and isinstance(config, MLAConfig)
            source = source_attention(block.self_attn)
            dims = LatentDims(config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim)
            if hidden:
                student_freq, _ = student.config.rope.frequencies(config.qk_rope_head_dim)
                u = np.concatenate([part.numpy() for part in normed])
                try:
                    with np.errstate(over="ignore", invalid="ignore"):  # what comes of them is looked at
                        arrays = regression_latent(source, dims, u, student_freq, starts=starts)
                except np.linalg.LinAlgError as error:
                    raise ValueError(f"[edit] layer {i}: the teacher's attention has no regression: {error}") from None
            elif target.init == "svd":
                arrays = svd_latent(source, dims)
            else:
                arrays = random_latent(source, dims, np.random.default_rng((seed, i)))
            _set_attention(student, i, arrays, folder)
        with no_grad():
            hidden = [
                block.after_attention(h, block.self_attn(n, document_starts=begins))
                for h, n, begins in zip(hidden, normed, _begins(starts, normed), strict=True)
            ]


def _gated(teacher: Decoder, target: GateSWA, full_layers: tuple[int, ...], folder: Path | None = None) -> Decoder:
    """The gate starts as the identity: g_proj 0, o_proj divided by the gate's value there."""
    config = replace(teacher.config, attention=target.attention(teacher.config, full_layers))
    student = student_of(teacher, config)
    for i in edited_layers(config, teacher.config):
        o_proj = np.asarray(teacher.layers[i].self_attn.o_proj.weight.numpy(), dtype=np.float32)
        heads, per = config.attention[i].num_attention_heads, target.gate_per
        gate = identity_gate(o_proj, target.gate, per, heads, o_proj.shape[1] // heads, config.hidden_size)
        _set_attention(student, i, gate, folder)
    return student


def auto_full_layers(teacher: Decoder, target: GateSWA, rows: Array, starts: Array | None = None) -> tuple[int, ...]:
    """Which layers keep full attention: one after the other, the one that brings KL(teacher || student) down most.

    A layer's own error under the window shortens the list of candidates where there are many; the KL itself decides.
    """
    config = teacher.config
    count = min(GateSWA.auto_count(config), config.num_hidden_layers)
    candidates = _by_window_error(teacher, target, rows, starts)[: max(8, SHORTLIST * count)]
    batches = passes(rows)
    begins = _begins(starts, batches)
    (expected,) = forward([teacher], batches, starts=begins)
    chosen: tuple[int, ...] = ()
    for _ in range(count):

        def divergence(layer: int, chosen: tuple[int, ...] = chosen) -> float:
            (given,) = forward([_gated(teacher, target, (*chosen, layer))], batches, starts=begins)
            with no_grad():
                kl = sum(
                    ops.fused_kl(
                        s, teacher.head, t, teacher.head, full((s.size // s.shape[2],), 1 / rows.size)
                    ).loss.item()
                    for s, t in zip(given, expected, strict=True)
                )
            if not math.isfinite(kl):
                where = overflow(list(rows[:SHORTLIST]), teacher=teacher)
                raise ValueError(f'[edit] full_layers="auto": kl is {kl} with layer {layer} full: {where}')
            return kl

        chosen = (*chosen, min((c for c in candidates if c not in chosen), key=divergence))
    return tuple(sorted(chosen))


def _by_window_error(teacher: Decoder, target: GateSWA, rows: Array, starts: Array | None) -> list[int]:
    """Layers by the energy-normalised error that the window alone causes in them, largest first."""
    windowed = _gated(teacher, target, ())
    edited, errors = edited_layers(windowed.config, teacher.config), {}
    with no_grad():
        hidden = [teacher.embed_tokens(part) for part in passes(rows)]
        begins = _begins(starts, hidden)
        for i, (block, other) in enumerate(layers(teacher, windowed)):
            energies = np.zeros(2)
            for b, h in enumerate(hidden):
                u = block.input_layernorm(h)
                a = block.self_attn(u, document_starts=begins[b])
                if i in edited:
                    weights = full((u.size // u.shape[2],), 1.0)
                    given = other.self_attn(u, document_starts=begins[b])
                    energies += ops.fused_mse(given, a, weights).energy.numpy()
                hidden[b] = block.after_attention(h, a)
            if i in edited:
                errors[i] = energies[0] / max(energies[1], 1e-30)
    return sorted(errors, key=lambda i: -errors[i])
