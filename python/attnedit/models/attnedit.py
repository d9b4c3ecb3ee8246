"""model_type attnedit: an edited model in our own folder, every layer's attention written out in config.json."""

from dataclasses import asdict, fields
from typing import Any

from attnedit.models.decoder import AttentionConfig, DecoderConfig
from attnedit.models.llama import rope_parameters, tensor_name
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig

__all__ = ["decoder_config", "raw_config", "tensor_name"]

KINDS: dict[str, type[AttentionConfig]] = {"gqa": GQAConfig, "gate_swa": GateSWAConfig, "mla": MLAConfig}
NAMES = {kind: name for name, kind in KINDS.items()}


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    plain = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("rope", "attention")}
    rope = config.rope
    return {
        **plain,
        "model_type": "attnedit",
        "source_model_type": config.model_type,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.attention[0].num_attention_heads,
        "max_position_embeddings": rope.max_position_embeddings,
        "rope_parameters": {"rope_type": rope.rope_type, "rope_theta": rope.rope_theta, **rope.scaling},
        "attention": [{"type": NAMES[type(layer)], **asdict(layer)} for layer in config.attention],
    }


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    layers: list[AttentionConfig] = []
    for i, written in enumerate(raw["attention"]):
        layer = dict(written)
        kind = layer.pop("type", None)
        if kind not in KINDS:
            raise ValueError(f"[config.json] attention[{i}].type must be one of {', '.join(KINDS)}, got {kind!r}")
        try:
            layers.append(KINDS[kind](**layer))
        except TypeError as error:
            raise ValueError(f"[config.json] attention[{i}]: {error}") from None
    plain = {f.name: raw[f.name] for f in fields(DecoderConfig) if f.name in raw and f.name != "attention"}
    plain["model_type"] = raw["source_model_type"]
    return DecoderConfig(**plain, rope=rope_parameters(raw), attention=tuple(layers))
