"""What the formats of grouped-query attention share: what they refuse, layer types, and gates where there was none."""

from collections.abc import Collection
from functools import partial
from typing import Any, cast

import numpy as np

from attnedit.export.keys import Tensors
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import GateSWAConfig, GQAConfig
from attnedit.tensor import Array, Tensor

AT_ZERO = {"sigmoid": 0.5, "softplus": float(np.log(2.0))}


def grouped(config: DecoderConfig) -> list[GQAConfig]:
    """The layers of a model that refuse_grouped has let pass."""
    return cast(list[GQAConfig], list(config.attention))


def refuse_grouped(
    config: DecoderConfig,
    *,
    qk_norm: bool,
    windows: bool,
    gate: str | None = None,
    gate_per: Collection[str] = ("head", "element"),
    biases: Collection[tuple[bool, bool]] = ((False, False),),
    mlp_bias: bool = False,
    experts: bool = False,
) -> str | None:
    """Why a class with one shape of attention for all layers cannot hold the model.

    gate: the activation of its gate; biases: what it can have on (q, k, v) and o; mlp_bias, experts: whether its MLP
    can have them.
    """
    layers = grouped(config)
    for i, layer in enumerate(layers):
        if not isinstance(layer, GQAConfig):
            return f"every layer must be grouped-query attention, layer {i} is {type(layer).__name__[:-6]}"
        if layer.qk_norm != qk_norm:
            return f"queries and keys must {'' if qk_norm else 'not '}be normed (QK-norm), layer {i} does otherwise"
        if qk_norm and layer.norm_eps != config.rms_norm_eps:
            return f"QK-norm must have rms_norm_eps {config.rms_norm_eps}, layer {i} has {layer.norm_eps}"
        if (layer.qkv_bias, layer.o_bias) not in biases:
            return f"biases of the attention cannot be as in layer {i}: {_biases(layer)}"
        if layer.sliding_window is not None and not windows:
            return f"every layer must see the whole context, layer {i} has sliding_window {layer.sliding_window}"
        if layer.sliding_window == 1:
            return f"sliding_window must be at least 2, layer {i} has 1"
        if isinstance(layer, GateSWAConfig) and gate is None:
            return f"no layer can have an output gate, layer {i} has one"
        if isinstance(layer, GateSWAConfig) and layer.gate != gate:
            return f"the gate must be {gate}, layer {i} has {layer.gate}"
        if isinstance(layer, GateSWAConfig) and layer.gate_per not in gate_per:
            return f"the gate must be per {' or '.join(gate_per)}, layer {i} has it per {layer.gate_per}"
    for what, values in (
        ("heads and head_dim", {(c.num_attention_heads, c.num_key_value_heads, c.head_dim) for c in layers}),
        ("biases", {(c.qkv_bias, c.o_bias) for c in layers}),
        ("sliding_window", {c.sliding_window for c in layers} - {None}),
    ):
        if len(values) > 1:
            return f"all layers must have the same {what}, got {' and '.join(map(str, sorted(values, key=str)))}"
    if config.moe is not None and not experts:
        return "the MLP must be dense, without experts"
    if config.mlp_bias and not mlp_bias:
        return "the MLP must have no bias"
    return None


def _biases(layer: GQAConfig) -> str:
    has = {"queries, keys and values": layer.qkv_bias, "o_proj": layer.o_bias}
    return ", ".join(f"{'a' if there else 'no'} bias on {name}" for name, there in has.items())


def grouped_keys(config: DecoderConfig) -> dict[str, Any]:
    first = grouped(config)[0]
    return {"num_key_value_heads": first.num_key_value_heads, "head_dim": first.head_dim}


def layer_keys(config: DecoderConfig) -> dict[str, Any]:
    """layer_types, and the window of the sliding ones."""
    windows = [layer.sliding_window for layer in grouped(config)]
    return {
        "sliding_window": next((window for window in windows if window is not None), None),
        "layer_types": ["full_attention" if window is None else "sliding_attention" for window in windows],
    }


def gated_everywhere(model: Decoder, activation: str, per: str) -> Tensors:
    """Parameter paths -> arrays, a gate in every layer: where there was none it is constant and o_proj undoes it, and a
    gate per head becomes one per element by repeating its rows."""
    parameters = dict(model.named_parameters())
    made: Tensors = {path: parameter.numpy for path, parameter in parameters.items()}
    for i, layer in enumerate(grouped(model.config)):
        gate, out = (f"layers.{i}.self_attn.{name}.weight" for name in ("g_proj", "o_proj"))
        if not isinstance(layer, GateSWAConfig):
            rows = layer.num_attention_heads * (1 if per == "head" else layer.head_dim)
            made[gate] = partial(np.zeros, (rows, model.config.hidden_size), np.float32)
            made[out] = partial(_divided, parameters[out], AT_ZERO[activation])
        elif per == "element" and layer.gate_per == "head":
            made[gate] = partial(_repeated, parameters[gate], layer.head_dim)
    return made


def _divided(weight: Tensor, number: float) -> Array:
    return np.asarray(weight.numpy(), np.float32) / np.float32(number)


def _repeated(weight: Tensor, times: int) -> Array:
    return weight.numpy().repeat(times, axis=0)
