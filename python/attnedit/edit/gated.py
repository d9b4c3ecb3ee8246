"""GQA -> gated sliding windows, and which layers `auto` leaves as they are."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from attnedit import ops
from attnedit.activations import forward, layers, passes
from attnedit.autograd import no_grad
from attnedit.edit.calibration import begins
from attnedit.edit.identity_gate import identity_gate
from attnedit.edit.student import OnLayer, set_attention, student_of
from attnedit.edit.targets import GateSWA
from attnedit.models import Decoder
from attnedit.models.decoder import edited_layers, overflow
from attnedit.tensor import Array, full

AUTO_TOKENS = 16_384
SHORTLIST = 2  # candidates measured per full layer that auto picks


def gated_student(
    teacher: Decoder, target: GateSWA, full_layers: tuple[int, ...], folder: Path | None = None
) -> Decoder:
    """The gate starts as the identity: g_proj 0, o_proj divided by the gate's value there."""
    config = replace(teacher.config, attention=target.attention(teacher.config, full_layers))
    student = student_of(teacher, config)
    for i in edited_layers(config, teacher.config):
        o_proj = np.asarray(teacher.layers[i].self_attn.o_proj.weight.numpy(), dtype=np.float32)
        heads, per = config.attention[i].num_attention_heads, target.gate_per
        gate = identity_gate(o_proj, target.gate, per, heads, o_proj.shape[1] // heads, config.hidden_size)
        set_attention(student, i, gate, folder)
    return student


def auto_full_layers(
    teacher: Decoder, target: GateSWA, rows: Array, starts: Array | None, on_layer: OnLayer
) -> tuple[int, ...]:
    """Which layers keep full attention: one after the other, the one that brings KL(teacher || student) down most.

    A layer's own error under the window shortens the list of candidates where there are many; the KL itself decides.
    """
    config = teacher.config
    count = min(GateSWA.auto_count(config), config.num_hidden_layers)
    candidates = _by_window_error(teacher, target, rows, starts)[: max(8, SHORTLIST * count)]
    batches = passes(rows)
    begin = begins(starts, batches)
    (expected,) = forward([teacher], batches, starts=begin)
    chosen: tuple[int, ...] = ()
    tries, tried = sum(len(candidates) - done for done in range(count)), 0
    for _ in range(count):

        def divergence(layer: int, chosen: tuple[int, ...] = chosen) -> float:
            nonlocal tried
            (given,) = forward([gated_student(teacher, target, (*chosen, layer))], batches, starts=begin)
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
            tried += 1
            on_layer(tried, tries)
            return kl

        chosen = (*chosen, min((c for c in candidates if c not in chosen), key=divergence))
    return tuple(sorted(chosen))


def _by_window_error(teacher: Decoder, target: GateSWA, rows: Array, starts: Array | None) -> list[int]:
    """Layers by the energy-normalised error that the window alone causes in them, largest first."""
    windowed = gated_student(teacher, target, ())
    edited, errors = edited_layers(windowed.config, teacher.config), {}
    with no_grad():
        hidden = [teacher.embed_tokens(part) for part in passes(rows)]
        begin = begins(starts, hidden)
        for i, (block, other) in enumerate(layers(teacher, windowed)):
            energies = np.zeros(2)
            for b, h in enumerate(hidden):
                u = block.input_layernorm(h)
                a = block.self_attn(u, document_starts=begin[b])
                if i in edited:
                    weights = full((u.size // u.shape[2],), 1.0)
                    given = other.self_attn(u, document_starts=begin[b])
                    energies += ops.fused_mse(given, a, weights).energy.numpy()
                hidden[b] = block.after_attention(h, a)
            if i in edited:
                errors[i] = energies[0] / max(energies[1], 1e-30)
    return sorted(errors, key=lambda i: -errors[i])
