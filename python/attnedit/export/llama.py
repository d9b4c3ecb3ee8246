"""format llama: full attention without gates or QK-norm, as transformers' LlamaForCausalLM reads it."""

from typing import Any

from attnedit.export.grouped import grouped, grouped_keys, refuse_grouped
from attnedit.export.keys import Tensors, renamed, rope_keys, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(
        config, qk_norm=False, windows=False, biases=((False, False), (True, True)), mlp_bias=True
    )  # fmt: skip


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    return {
        **shared_keys(config, "llama", "LlamaForCausalLM"),
        **grouped_keys(config),
        **rope_keys(config),
        "attention_bias": grouped(config)[0].o_bias,
        "mlp_bias": config.mlp_bias,
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
