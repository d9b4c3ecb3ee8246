"""model_type qwen3_moe: qwen3 with a mixture of experts instead of the MLP, in all layers or some."""

from dataclasses import replace
from typing import Any

from attnedit.models import llama
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import MoEConfig

__all__ = ["decoder_config", "tensor_name"]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig. A window counts in every layer: the class knows no layer_types."""
    raw = {k: v for k, v in raw.items() if k not in ("layer_types", "max_window_layers")}
    if raw.get("num_experts") is None:  # as transformers 5 writes it
        raw["num_experts"] = raw.get("num_local_experts")
    moe = read_keys(MoEConfig, raw)
    return replace(llama.decoder_config(raw, qk_norm=True), moe=moe)
