"""format lfm3: a dense QK-norm model with a sigmoid gate per head, as transformers' Lfm3ForCausalLM reads it."""

from typing import Any

from attnedit.export.grouped import gated_everywhere, grouped, grouped_keys, layer_keys, refuse_grouped
from attnedit.export.keys import Tensors, renamed, rope_by_layer_type, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.lfm3 import tensor_name
from attnedit.nn import GateSWAConfig

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(config, qk_norm=True, windows=True, gate="sigmoid", gate_per=("head",))


def _gated(config: DecoderConfig) -> bool:
    return any(isinstance(layer, GateSWAConfig) for layer in grouped(config))


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    shared = shared_keys(config, "lfm3", "Lfm3ForCausalLM")
    del shared["hidden_act"]  # always silu
    del shared["rms_norm_eps"]
    return {
        **shared,
        "norm_eps": config.rms_norm_eps,
        **grouped_keys(config),
        **layer_keys(config),
        "use_sandwich_norm": False,
        "use_attention_gate": _gated(config),
        **rope_by_layer_type(config),
        "attention_bias": False,
    }


def tensors(model: Decoder) -> Tensors:
    if not _gated(model.config):
        return renamed(model, tensor_name)
    return {tensor_name(path): made for path, made in gated_everywhere(model, "sigmoid", "head").items()}
