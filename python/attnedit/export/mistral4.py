"""format mistral4: MLA with Qwen3-MoE's experts, as transformers' Mistral4ForCausalLM reads it.

AutoModelForCausalLM does not know the class: it is loaded by its name.
"""

from typing import Any

from attnedit.export.experts import fused, mixture, shared_expert, sparse_layers
from attnedit.export.keys import Tensors, shared_keys
from attnedit.export.latent import latent_keys, refuse_latent
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.mistral4 import tensor_name
from attnedit.nn import MLAConfig

__all__ = ["LOADER", "raw_config", "refuse", "tensors"]

LOADER = "Mistral4ForCausalLM"


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    reason = refuse_latent(config, experts=True)
    if reason is not None:
        return reason
    sparse = sparse_layers(config)
    if sparse != list(range(config.num_hidden_layers - len(sparse), config.num_hidden_layers)):
        return "dense layers must come before all that have experts"
    if mixture(config).num_experts < 2:
        return "the mixture must have at least 2 experts"
    return None


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json.

    The class builds no default rope for MLA: yarn with a factor of 1 is the same frequencies. Its share of rotary dims
    is rounded down, so half a dim is added.
    """
    moe, layer, rope = mixture(config), config.attention[0], config.rope
    assert isinstance(layer, MLAConfig)
    dims = layer.qk_rope_head_dim, layer.qk_nope_head_dim + layer.qk_rope_head_dim
    block: dict[str, Any] = {"rope_type": rope.rope_type, **rope.scaling}
    if rope.rope_type == "default":
        block = {"rope_type": "yarn", "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    block.setdefault("original_max_position_embeddings", rope.max_position_embeddings)
    keys = latent_keys(config)
    for spelling in ("rope_theta", "rope_scaling"):  # of transformers 4, which does not know the class
        del keys[spelling]
    return {
        **shared_keys(config, "mistral4", "Mistral4ForCausalLM"),
        **keys,
        "rope_parameters": {
            **block,
            "rope_theta": rope.rope_theta,
            "llama_4_scaling_beta": 0.0,
            "partial_rotary_factor": (dims[0] + 0.5) / dims[1],
        },
        "first_k_dense_replace": config.num_hidden_layers - len(sparse_layers(config)),
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "moe_intermediate_size": moe.moe_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "n_shared_experts": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "output_router_logits": False,
    }


def tensors(model: Decoder) -> Tensors:
    made = fused(model)
    for layer in sparse_layers(model.config):
        made |= shared_expert(model.config, layer, "shared_experts", 0)
    return {tensor_name(path): array for path, array in made.items()}
