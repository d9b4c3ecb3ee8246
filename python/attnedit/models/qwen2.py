"""model_type qwen2: llama with biases on queries, keys and values."""

from typing import Any

from attnedit.models import llama
from attnedit.models.decoder import DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["decoder_config", "tensor_name"]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    return llama.decoder_config(raw, qkv_bias=True, o_bias=False)
