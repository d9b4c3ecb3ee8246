"""model_type qwen3_5_text with full attention only: QK-norm, a sigmoid gate per element.

Stored otherwise than a decoder has them: the gate's rows behind each head's query rows, norm weights less 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from attnedit.models.decoder import DecoderConfig
from attnedit.models.hybrid import hybrid_config
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import GateSWAConfig
from attnedit.tensor import Array

__all__ = ["decoder_config", "tensor_name", "unpacked"]


@dataclass(frozen=True, kw_only=True)
class FullKeys:
    layer_types: list[Literal["full_attention"]]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    read_keys(FullKeys, raw)
    block = raw.get("rope_parameters") or {}
    if isinstance(block, dict) and "partial_rotary_factor" not in block:  # absent, the class's own 0.25 counts
        raw = {**raw, "rope_parameters": {**block, "partial_rotary_factor": 0.25}}
    return hybrid_config(raw, "qwen3_5_text", {"gate": "sigmoid", "gate_per": "element"})


def unpacked(config: DecoderConfig, stored: Mapping[str, Array]) -> Mapping[str, Array]:
    """The stored tensors as tensor_name calls them."""
    layer = config.attention[0]
    assert isinstance(layer, GateSWAConfig)
    heads = layer.num_attention_heads
    made: dict[str, Array] = {}
    for name, array in stored.items():
        if name.endswith("norm.weight") and array.shape in ((config.hidden_size,), (layer.head_dim,)):
            made[name] = np.asarray(array, np.float32) + np.float32(1)
        elif name.endswith("q_proj.weight") and array.shape == (2 * heads * layer.head_dim, config.hidden_size):
            pairs = array.reshape(heads, 2, -1, array.shape[1])
            for k, part in enumerate(("q_proj", "g_proj")):
                made[name.replace("q_proj", part)] = np.ascontiguousarray(pairs[:, k]).reshape(-1, array.shape[1])
        else:
            made[name] = array
    return made
