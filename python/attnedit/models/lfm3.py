"""model_type lfm3 without convolutions and sandwich norms: QK-norm, sliding layers, a sigmoid gate per head."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from attnedit.models import llama
from attnedit.models.decoder import DecoderConfig
from attnedit.models.hybrid import hybrid_config
from attnedit.models.keys import read_keys

NAMES = {
    "norm": "embedding_norm", "input_layernorm": "operator_norm", "post_attention_layernorm": "ffn_norm",
    "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "mlp": "feed_forward",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lfm3Keys:
    """The class's own defaults differ from a pre-norm decoder, so they must be written."""

    norm_eps: float
    use_sandwich_norm: Literal[False]
    use_attention_gate: bool = True


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig."""
    own = read_keys(Lfm3Keys, raw)
    gate = {"gate": "sigmoid", "gate_per": "head"} if own.use_attention_gate else None
    return hybrid_config({**raw, "rms_norm_eps": own.norm_eps}, "lfm3", gate)


def tensor_name(parameter: str) -> str:
    """The decoder's parameter path -> the checkpoint's tensor name."""
    return llama.tensor_name(re.sub(r"\w+", lambda word: NAMES.get(word[0], word[0]), parameter))
