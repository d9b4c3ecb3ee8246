"""model_type qwen3: llama with an RMSNorm over every head of queries and keys, before the rotation."""

from typing import Any

from attnedit.models import llama
from attnedit.models.decoder import DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["decoder_config", "tensor_name"]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    if raw.get("head_dim") is None:
        raw = {**raw, "head_dim": 128}  # the class's own default: not hidden_size / heads
    return llama.decoder_config(raw, qk_norm=True)
