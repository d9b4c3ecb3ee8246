"""model_type mellum: QK-norm, sliding layers, dense or with experts."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from attnedit.models.decoder import DecoderConfig
from attnedit.models.hybrid import hybrid_config
from attnedit.models.keys import read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import MoEConfig

__all__ = ["decoder_config", "tensor_name"]


@dataclass(frozen=True, kw_only=True)
class MellumKeys:
    mlp_layer_types: list[Literal["dense", "sparse"]]
    num_nextn_predict_layers: Literal[0] = 0


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    kinds = read_keys(MellumKeys, raw).mlp_layer_types
    config = hybrid_config(raw, "mellum", None)
    if len(kinds) != config.num_hidden_layers:
        raise ValueError(
            f"[config.json] mlp_layer_types must have {config.num_hidden_layers} entries, got {len(kinds)}"
        )
    if "sparse" not in kinds:
        return config
    dense = [i for i, kind in enumerate(kinds) if kind == "dense"]
    written = {**raw, "num_experts": raw.get("num_experts", raw.get("num_local_experts"))}
    return replace(config, moe=read_keys(MoEConfig, {**written, "decoder_sparse_step": 1, "mlp_only_layers": dense}))
