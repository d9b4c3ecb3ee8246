"""model_type deepseek_v3, dense: MLA in every layer, as attnedit exports it and stock engines read it."""

from dataclasses import dataclass
from typing import Any, Literal

from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import SharedKeys, read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import MLAConfig

__all__ = ["decoder_config", "tensor_name"]


@dataclass(frozen=True, kw_only=True)
class DeepseekKeys(SharedKeys):
    """What is not dense or has no direct queries is refused by its key."""

    first_k_dense_replace: int
    q_lora_rank: None = None
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    rope_interleave: Literal[True] = True
    hidden_act: Literal["silu"] = "silu"


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    keys = read_keys(DeepseekKeys, raw)
    layers = keys.num_hidden_layers
    if keys.first_k_dense_replace < layers:
        raise ValueError(
            f"[config.json] first_k_dense_replace must be at least num_hidden_layers {layers}, since only dense layers "
            f"are read, got {keys.first_k_dense_replace}"
        )
    return keys.decoder_config("deepseek_v3", (read_keys(MLAConfig, raw),) * layers)
