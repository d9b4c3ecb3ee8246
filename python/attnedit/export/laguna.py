"""format laguna: a dense QK-norm model with a softplus gate, as transformers' LagunaForCausalLM reads it."""

from typing import Any

from attnedit.export.grouped import gated_everywhere, grouped, grouped_keys, layer_keys, refuse_grouped
from attnedit.export.keys import Tensors, rope_by_layer_type, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.laguna import tensor_name
from attnedit.nn import GateSWAConfig

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(config, qk_norm=True, windows=True, gate="softplus")


def _per(config: DecoderConfig) -> str:
    layers = grouped(config)
    return "element" if any(isinstance(c, GateSWAConfig) and c.gate_per == "element" for c in layers) else "head"


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    keys = layer_keys(config)
    return {
        **shared_keys(config, "laguna", "LagunaForCausalLM"),
        **grouped_keys(config),
        **keys,
        # A number is wanted where no layer slides, too.
        "sliding_window": keys["sliding_window"] or config.rope.max_position_embeddings,
        "mlp_layer_types": ["dense"] * config.num_hidden_layers,
        "gating": f"per-{_per(config)}",
        **rope_by_layer_type(config, partial_rotary_factor=1.0),
        "attention_bias": False,
    }


def tensors(model: Decoder) -> Tensors:
    made = gated_everywhere(model, "softplus", _per(model.config))
    return {tensor_name(path): array for path, array in made.items()}
