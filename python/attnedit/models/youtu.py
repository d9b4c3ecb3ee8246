"""model_type youtu: MLA in every layer of a dense model, as deepseek_v3 without its mixture of experts."""

from typing import Any

from attnedit.checked import shown
from attnedit.models import deepseek_v3
from attnedit.models.decoder import DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["decoder_config", "tensor_name"]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    if raw.get("pad_token_id") is not None:
        raise ValueError(
            "[config.json] pad_token_id must be null in model_type youtu, whose class zeroes that token's embedding "
            f"when it loads, got {shown(raw['pad_token_id'])}"
        )
    return deepseek_v3.decoder_config({**raw, "first_k_dense_replace": raw.get("num_hidden_layers")})
