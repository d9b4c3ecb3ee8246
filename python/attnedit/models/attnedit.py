"""model_type attnedit: an edited model in our own folder, every layer's attention written out in config.json."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from attnedit.checked import shown
from attnedit.models.decoder import AttentionConfig, DecoderConfig
from attnedit.models.keys import SharedKeys, read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig, MoEConfig

__all__ = ["decoder_config", "raw_config", "tensor_name"]

KINDS: dict[str, type[AttentionConfig]] = {"gqa": GQAConfig, "gate_swa": GateSWAConfig, "mla": MLAConfig}
NAMES = {kind: name for name, kind in KINDS.items()}


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    apart = ("rope", "attention", "moe", "generation")
    plain = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in apart}
    rope = config.rope
    return {
        **plain,
        "model_type": "attnedit",
        "source_model_type": config.model_type,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.attention[0].num_attention_heads,
        "max_position_embeddings": rope.max_position_embeddings,
        "rope_parameters": {"rope_type": rope.rope_type, "rope_theta": rope.rope_theta, **rope.scaling},
        "moe": None if config.moe is None else asdict(config.moe),
        "attention": [{"type": NAMES[type(layer)], **asdict(layer)} for layer in config.attention],
    }


@dataclass(frozen=True, kw_only=True)
class EditedKeys(SharedKeys):
    source_model_type: str
    attention: list[dict[str, Any]]
    moe: MoEConfig | None = None


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    keys = read_keys(EditedKeys, raw)
    if len(keys.attention) != keys.num_hidden_layers:
        raise ValueError(
            f"[config.json] attention must have num_hidden_layers {keys.num_hidden_layers} entries, "
            f"got {len(keys.attention)}"
        )
    layers: list[AttentionConfig] = []
    for i, written in enumerate(keys.attention):
        kind = written.pop("type", None)
        if kind not in list(KINDS):
            raise ValueError(f"[config.json] attention[{i}].type must be one of {', '.join(KINDS)}, got {shown(kind)}")
        layers.append(read_keys(KINDS[kind], written, f"attention[{i}]: ", "forbid"))
    return replace(keys.decoder_config(keys.source_model_type, tuple(layers)), moe=keys.moe)
