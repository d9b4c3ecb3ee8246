"""model_type qwen3_next, dense and with full attention only: stored as qwen3_5_text."""

from dataclasses import dataclass, replace
from typing import Any

from attnedit.models import qwen3_5_text
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import read_keys
from attnedit.models.qwen3_5_text import tensor_name, unpacked

__all__ = ["decoder_config", "tensor_name", "unpacked"]


@dataclass(frozen=True, kw_only=True)
class DenseKeys:
    num_hidden_layers: int
    mlp_only_layers: list[int]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    keys = read_keys(DenseKeys, raw)
    if sorted(keys.mlp_only_layers) != list(range(keys.num_hidden_layers)):
        raise ValueError(
            "[config.json] mlp_only_layers must name all layers, since only dense ones are read, "
            f"got {keys.mlp_only_layers}"
        )
    return replace(qwen3_5_text.decoder_config(raw), model_type="qwen3_next")
