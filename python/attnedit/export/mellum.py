"""format mellum: QK-norm, sliding layers, no gate, dense or with experts, as MellumForCausalLM reads it."""

from typing import Any

from attnedit.export.experts import expert_keys
from attnedit.export.grouped import grouped_keys, layer_keys, refuse_grouped
from attnedit.export.keys import Tensors, renamed, rope_by_layer_type, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.mellum import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(config, qk_norm=True, windows=True, experts=True)


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    return {
        **shared_keys(config, "mellum", "MellumForCausalLM"),
        **grouped_keys(config),
        **layer_keys(config),
        "mlp_layer_types": ["sparse" if config.sparse(i) else "dense" for i in range(config.num_hidden_layers)],
        **({} if config.moe is None else expert_keys(config)),
        **rope_by_layer_type(config),
        "attention_bias": False,
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
