"""GQA -> MLA, from the first layer to the last, each from its own source layer."""

from pathlib import Path

import numpy as np

from attnedit.activations import layers, passes
from attnedit.autograd import no_grad
from attnedit.data import TrainingRows
from attnedit.edit.calibration import begins, calibration_rows
from attnedit.edit.regression import LatentDims, SourceAttention, regression_latent
from attnedit.edit.starts import random_latent, svd_latent
from attnedit.edit.student import OnLayer, layer_path, set_attention
from attnedit.edit.targets import MLA
from attnedit.models import Decoder
from attnedit.models.decoder import edited_layers
from attnedit.models.load import map_parameters
from attnedit.models.pages import give_back_all
from attnedit.nn import GQA, MLAConfig
from attnedit.tensor import Array, Tensor

CALIBRATION_TOKENS = 8_192


def latent_student(
    student: Decoder,
    teacher: Decoder,
    target: MLA,
    calibration: TrainingRows | None,
    seed: int,
    folder: Path | None,
    on_layer: OnLayer,
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
            rows, starts = calibration_rows(calibration, 'init="regression"', CALIBRATION_TOKENS)
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
            source = _source_attention(block.self_attn)
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
            set_attention(student, i, arrays, folder)
            done.add(i)
            on_layer(len(done), len(edited))
        with no_grad():
            hidden = [
                block.after_attention(h, block.self_attn(n, document_starts=begin))
                for h, n, begin in zip(hidden, normed, begins(starts, normed), strict=True)
            ]


def _source_attention(attention: GQA) -> SourceAttention:
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
