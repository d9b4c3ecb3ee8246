"""model_type llama: the form that the other families vary."""

from typing import Any

from attnedit.models.decoder import DecoderConfig
from attnedit.nn import GQAConfig, RopeParameters
from attnedit.nn.rope import KNOWN_TYPES


def required(raw: dict[str, Any], key: str) -> Any:
    if raw.get(key) is None:
        raise ValueError(f"[config.json] {key} is missing")
    return raw[key]


def rope_parameters(raw: dict[str, Any]) -> RopeParameters:
    """The library's precedence: a non-null rope_scaling, else rope_parameters; the block's own rope_theta first."""
    block = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    if any(isinstance(value, dict) for value in block.values()):  # keyed by layer type: one block for all layers here
        blocks = [dict(b) for b in block.values()]
        if any(b != blocks[0] for b in blocks):
            raise ValueError("[config.json] rope_parameters must be the same for all layer types, got different ones")
        block = blocks[0]
    rope_type = block.pop("rope_type", None) or block.pop("type", None) or "default"
    block.pop("type", None)
    theta = block.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    if rope_type not in KNOWN_TYPES:
        raise ValueError(f"[config.json] rope_type must be one of {', '.join(KNOWN_TYPES)}, got {rope_type!r}")
    if block.pop("partial_rotary_factor", None) not in (None, 1.0):
        raise ValueError(
            "[config.json] partial_rotary_factor must be 1, since all dims of a head rotate in this family"
        )
    return RopeParameters(float(theta), rope_type, int(raw.get("max_position_embeddings") or 2048), block)


def decoder_config(
    raw: dict[str, Any], qk_norm: bool = False, qkv_bias: bool | None = None, o_bias: bool | None = None
) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    if (raw.get("hidden_act") or "silu") != "silu":
        raise ValueError(f"[config.json] hidden_act must be silu, got {raw['hidden_act']!r}")
    heads = int(required(raw, "num_attention_heads"))
    kv_heads = int(raw.get("num_key_value_heads") or heads)
    hidden = int(required(raw, "hidden_size"))
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"[config.json] num_key_value_heads must divide num_attention_heads {heads}, got {kv_heads}")
    head_dim = int(raw.get("head_dim") or hidden // heads)
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"[config.json] head_dim must be even and positive, got {head_dim}")
    eps = float(raw.get("rms_norm_eps") or 1e-6)
    bias = bool(raw.get("attention_bias"))
    layers = int(required(raw, "num_hidden_layers"))
    return DecoderConfig(
        model_type=str(raw["model_type"]),
        vocab_size=int(required(raw, "vocab_size")),
        hidden_size=hidden,
        intermediate_size=int(required(raw, "intermediate_size")),
        rms_norm_eps=eps,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope=rope_parameters(raw),
        attention=tuple(
            GQAConfig(
                heads, kv_heads, head_dim, qk_norm,
                bias if qkv_bias is None else qkv_bias, bias if o_bias is None else o_bias, eps, window,
            )
            for window in sliding_windows(raw, layers)
        ),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_id=raw.get("eos_token_id"),
        pad_token_id=raw.get("pad_token_id"),
    )  # fmt: skip


def sliding_windows(raw: dict[str, Any], layers: int) -> list[int | None]:
    """Per layer. layer_types beats max_window_layers; a window counts only where use_sliding_window is true."""
    window = raw.get("sliding_window")
    if not raw.get("use_sliding_window") or not window:
        return [None] * layers
    kinds = raw.get("layer_types")
    if kinds is None:
        first = int(raw.get("max_window_layers") or 0)
        return [int(window) if i >= first else None for i in range(layers)]
    if len(kinds) != layers:
        raise ValueError(f"[config.json] layer_types must have {layers} entries, got {len(kinds)}")
    return [int(window) if kind == "sliding_attention" else None for kind in kinds]


def tensor_name(parameter: str) -> str:
    """The decoder's parameter path -> the checkpoint's tensor name."""
    return parameter if parameter.startswith("lm_head.") else f"model.{parameter}"
