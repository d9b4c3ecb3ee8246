"""format deepseek_v3: dense MLA in every layer, as transformers' DeepseekV3ForCausalLM reads it."""

from typing import Any

from attnedit.models import DecoderConfig
from attnedit.models.llama import tensor_name
from attnedit.nn import MLAConfig

__all__ = ["raw_config", "refuse", "tensor_name"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    if not all(isinstance(layer, MLAConfig) for layer in config.attention):
        return "every layer must be MLA"
    if len(set(config.attention)) > 1:
        return "all layers must have the same MLA dimensions"
    if config.moe is not None:
        return "the MLP must be dense, without experts"
    if config.mlp_bias:
        return "the MLP must have no bias"
    return None


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json, with both spellings of rope and dtype, so that 4.57 and 5.x read the same."""
    layer = config.attention[0]
    assert isinstance(layer, MLAConfig)
    rope, layers = config.rope, config.num_hidden_layers
    block = {"rope_type": rope.rope_type, **rope.scaling}
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_attention_heads,
        "q_lora_rank": None,
        "kv_lora_rank": layer.kv_lora_rank,
        "qk_nope_head_dim": layer.qk_nope_head_dim,
        "qk_rope_head_dim": layer.qk_rope_head_dim,
        "v_head_dim": layer.v_head_dim,
        "rope_interleave": True,
        "rope_theta": rope.rope_theta,
        "rope_scaling": None if rope.rope_type == "default" else block,
        "rope_parameters": {"rope_theta": rope.rope_theta, **block},
        "max_position_embeddings": rope.max_position_embeddings,
        # Dense: no layer reaches the mixture of experts, but the class wants its keys to be numbers.
        "first_k_dense_replace": layers,
        "moe_layer_freq": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
