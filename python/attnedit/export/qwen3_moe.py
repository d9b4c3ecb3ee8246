"""format qwen3_moe: a mixture of experts, QK-norm, no gates, as transformers' Qwen3MoeForCausalLM reads it."""

from typing import Any

from attnedit.export.experts import expert_keys
from attnedit.export.grouped import grouped, grouped_keys, layer_keys, refuse_grouped
from attnedit.export.keys import Tensors, renamed, rope_keys, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.qwen3_moe import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    if config.moe is None:
        return "the MLP must be a mixture of experts"
    reason = refuse_grouped(config, qk_norm=True, windows=True, biases=((False, False), (True, True)), experts=True)
    windows = {layer.sliding_window for layer in grouped(config)} if reason is None else set()
    return "all layers must slide or none" if len(windows) > 1 else reason


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json. No layer_types: the class slides in every layer or in none."""
    window = layer_keys(config)["sliding_window"]
    return {
        **shared_keys(config, "qwen3_moe", "Qwen3MoeForCausalLM"),
        **grouped_keys(config),
        **rope_keys(config),
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0,
        "attention_bias": grouped(config)[0].o_bias,
        **expert_keys(config),
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
