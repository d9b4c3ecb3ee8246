"""format deepseek_v3: dense MLA in every layer, as transformers' DeepseekV3ForCausalLM reads it."""

from typing import Any

from attnedit.export.keys import Tensors, renamed, shared_keys
from attnedit.export.latent import latent_keys
from attnedit.export.latent import refuse_latent as refuse
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    return {
        **shared_keys(config, "deepseek_v3", "DeepseekV3ForCausalLM"),
        **latent_keys(config),
        # Dense: no layer reaches the mixture of experts, but the class wants its keys to be numbers.
        "first_k_dense_replace": config.num_hidden_layers,
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
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
