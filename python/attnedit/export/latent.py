"""What the formats of DeepSeek's MLA share."""

from typing import Any

from attnedit.export.keys import rope_keys
from attnedit.models import DecoderConfig
from attnedit.nn import MLAConfig


def refuse_latent(config: DecoderConfig, experts: bool = False) -> str | None:
    """Why a class with one MLA for all layers cannot hold the model; experts: whether its MLP is a mixture of them."""
    for i, layer in enumerate(config.attention):
        if not isinstance(layer, MLAConfig):
            return f"every layer must be MLA, layer {i} is not"
    if len(set(config.attention)) > 1:
        return "all layers must have the same MLA dimensions"
    if (config.moe is not None) != experts:
        return "the MLP must be a mixture of experts" if experts else "the MLP must be dense, without experts"
    if config.mlp_bias:
        return "the MLP must have no bias"
    return None


def latent_keys(config: DecoderConfig) -> dict[str, Any]:
    """No head_dim, which the classes take for qk_rope_head_dim; as many key-value heads as heads."""
    layer = config.attention[0]
    assert isinstance(layer, MLAConfig)
    return {
        "num_key_value_heads": layer.num_attention_heads,
        "q_lora_rank": None,
        "kv_lora_rank": layer.kv_lora_rank,
        "qk_nope_head_dim": layer.qk_nope_head_dim,
        "qk_rope_head_dim": layer.qk_rope_head_dim,
        "v_head_dim": layer.v_head_dim,
        "rope_interleave": True,
        **rope_keys(config),
        "attention_bias": False,
    }
