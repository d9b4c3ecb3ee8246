"""model_type mellum, dense: QK-norm and sliding layers."""

from dataclasses import dataclass
from typing import Any, Literal

from attnedit.models.decoder import DecoderConfig
from attnedit.models.hybrid import hybrid_config
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name

__all__ = ["decoder_config", "tensor_name"]


@dataclass(frozen=True, kw_only=True)
class MellumKeys:
    mlp_layer_types: list[Literal["dense"]]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    read_keys(MellumKeys, raw)
    return hybrid_config(raw, "mellum", None)
