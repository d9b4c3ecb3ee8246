"""What the families with layer_types share: grouped attention, full or sliding, gated or not, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attnedit.checked import Even, Length, Size
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import SharedKeys, read_keys
from attnedit.nn import GateSWAConfig, GQAConfig


@dataclass(frozen=True, kw_only=True)
class HybridKeys(SharedKeys):
    num_key_value_heads: Size
    head_dim: Even
    layer_types: list[Literal["full_attention", "sliding_attention"]]
    sliding_window: Length | None = None
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False


def hybrid_config(raw: dict[str, Any], model_type: str, gate: Mapping[str, str] | None) -> DecoderConfig:
    """config.json of a family with QK-norm -> DecoderConfig; gate: GateSWAConfig's own keys where layers are gated."""
    keys = read_keys(HybridKeys, raw)
    kinds, layers = keys.layer_types, keys.num_hidden_layers
    if len(kinds) != layers:
        raise ValueError(f"[config.json] layer_types must have {layers} entries, got {len(kinds)}")
    if "sliding_attention" in kinds and keys.sliding_window is None:
        raise ValueError("[config.json] sliding_window must be a number where layer_types has sliding_attention")
    shared = {
        "num_attention_heads": keys.num_attention_heads,
        "num_key_value_heads": keys.num_key_value_heads,
        "head_dim": keys.head_dim,
        "qk_norm": True,
        "norm_eps": keys.rms_norm_eps,
        **(gate or {}),
    }
    kind = GQAConfig if gate is None else GateSWAConfig
    windows = (keys.sliding_window if layer == "sliding_attention" else None for layer in kinds)
    return keys.decoder_config(
        model_type, tuple(read_keys(kind, shared | {"sliding_window": window}) for window in windows)
    )
