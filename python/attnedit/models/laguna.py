"""model_type laguna, dense: QK-norm, sliding layers, a softplus gate per head or per element."""

from dataclasses import dataclass
from typing import Any, Literal

from attnedit.models.decoder import DecoderConfig
from attnedit.models.hybrid import hybrid_config
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name

__all__ = ["decoder_config", "tensor_name"]


@dataclass(frozen=True, kw_only=True)
class LagunaKeys:
    gating: Literal["per-head", "per-element"]
    mlp_layer_types: list[Literal["dense"]]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    per = read_keys(LagunaKeys, raw).gating.removeprefix("per-")
    return hybrid_config(raw, "laguna", {"gate": "softplus", "gate_per": per})
