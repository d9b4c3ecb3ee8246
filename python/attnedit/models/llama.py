"""model_type llama: the form that the other families vary."""

from dataclasses import dataclass
from typing import Any, Literal

from attnedit.checked import Even, Length, Size
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import SharedKeys, read_keys
from attnedit.nn import GQAConfig


@dataclass(frozen=True, kw_only=True)
class LlamaKeys(SharedKeys):
    num_key_value_heads: Size | None = None  # default: num_attention_heads
    head_dim: Even | None = None  # default: hidden_size / num_attention_heads
    hidden_act: Literal["silu"] = "silu"
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Length | None = None
    max_window_layers: int = 0
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None


def decoder_config(
    raw: dict[str, Any], qk_norm: bool = False, qkv_bias: bool | None = None, o_bias: bool | None = None
) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    keys = read_keys(LlamaKeys, raw)
    heads, bias = keys.num_attention_heads, keys.attention_bias
    shared = {
        "num_attention_heads": heads,
        "num_key_value_heads": keys.num_key_value_heads or heads,
        "head_dim": keys.head_dim or keys.hidden_size // heads,
        "qk_norm": qk_norm,
        "qkv_bias": bias if qkv_bias is None else qkv_bias,
        "o_bias": bias if o_bias is None else o_bias,
        "norm_eps": keys.rms_norm_eps,
    }
    windows = sliding_windows(keys)
    return keys.decoder_config(
        keys.model_type, tuple(read_keys(GQAConfig, shared | {"sliding_window": window}) for window in windows)
    )


def sliding_windows(keys: LlamaKeys) -> list[int | None]:
    """Per layer. layer_types beats max_window_layers; a window counts only where use_sliding_window is true."""
    layers, window, kinds = keys.num_hidden_layers, keys.sliding_window, keys.layer_types
    if not keys.use_sliding_window or window is None:
        return [None] * layers
    if kinds is None:
        return [window if i >= keys.max_window_layers else None for i in range(layers)]
    if len(kinds) != layers:
        raise ValueError(f"[config.json] layer_types must have {layers} entries, got {len(kinds)}")
    return [window if kind == "sliding_attention" else None for kind in kinds]


def tensor_name(parameter: str) -> str:
    """The decoder's parameter path -> the checkpoint's tensor name."""
    return parameter if parameter.startswith("lm_head.") else f"model.{parameter}"
