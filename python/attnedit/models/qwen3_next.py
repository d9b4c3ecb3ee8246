"""model_type qwen3_next with full attention only, dense or with experts: stored as qwen3_5_text.

The class always has a shared expert; one of zeros is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attnedit.models import qwen3_5_text
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import MoEConfig
from attnedit.tensor import Array

__all__ = ["decoder_config", "tensor_name", "unpacked"]


@dataclass(frozen=True, kw_only=True)
class LayerKeys:
    num_hidden_layers: int
    mlp_only_layers: list[int]
    decoder_sparse_step: int


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    keys, config = read_keys(LayerKeys, raw), replace(qwen3_5_text.decoder_config(raw), model_type="qwen3_next")
    if set(range(keys.num_hidden_layers)) <= set(keys.mlp_only_layers):
        return config
    return replace(config, moe=read_keys(MoEConfig, raw))


def unpacked(config: DecoderConfig, stored: Mapping[str, Array]) -> Mapping[str, Array]:
    """The stored tensors as tensor_name calls them, without the shared experts."""
    shared = {name for name in stored if ".mlp.shared_expert" in name}
    for name in shared:
        if name.endswith("down_proj.weight") and stored[name].any():
            raise ValueError(f"[load] tensor {name} must be zero, since shared experts are not read")
    kept = {name: array for name, array in stored.items() if name not in shared}
    return qwen3_5_text.unpacked(config, kept)
