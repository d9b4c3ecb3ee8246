"""format qwen3_next, dense: full attention with a sigmoid gate, as transformers' Qwen3NextForCausalLM reads it."""

from typing import Any

from attnedit.export import qwen3_5_text
from attnedit.export.qwen3_5_text import refuse, tensors
from attnedit.models import DecoderConfig

__all__ = ["raw_config", "refuse", "tensors"]


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json, every layer with a dense MLP."""
    return {
        **qwen3_5_text.raw_config(config, "qwen3_next", "Qwen3NextForCausalLM"),
        "mlp_only_layers": list(range(config.num_hidden_layers)),
        "decoder_sparse_step": 1,
        "num_experts": 0,
    }
