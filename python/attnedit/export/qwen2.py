"""format qwen2: biases on queries, keys and values, no gates, as transformers' Qwen2ForCausalLM reads it."""

from typing import Any

from attnedit.export.grouped import grouped_keys, layer_keys, refuse_grouped
from attnedit.export.keys import Tensors, renamed, rope_keys, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.qwen2 import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(config, qk_norm=False, windows=True, biases=((True, False),))


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    keys = layer_keys(config)
    return {
        **shared_keys(config, "qwen2", "Qwen2ForCausalLM"),
        **grouped_keys(config),
        **rope_keys(config),
        "use_sliding_window": keys["sliding_window"] is not None,
        "max_window_layers": 0,
        **keys,
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
