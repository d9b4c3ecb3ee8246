"""model_type deepseek_v3, dense: MLA in every layer, as attnedit exports it and stock engines read it."""

from typing import Any

from attnedit.models.decoder import DecoderConfig
from attnedit.models.llama import required, rope_parameters, tensor_name
from attnedit.nn import MLAConfig

__all__ = ["decoder_config", "tensor_name"]


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig; what attnedit does not compute is refused by its key."""
    layers = int(required(raw, "num_hidden_layers"))
    wanted = {"q_lora_rank": raw.get("q_lora_rank") is None, "attention_bias": not raw.get("attention_bias"),
              "rope_interleave": raw.get("rope_interleave", True),
              "first_k_dense_replace": int(required(raw, "first_k_dense_replace")) >= layers}  # fmt: skip
    for key, good in wanted.items():
        if not good:
            raise ValueError(
                f"[config.json] {key} {raw.get(key)!r} is not read: dense, direct queries, no bias, pairs only"
            )
    keys = ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    layer = MLAConfig(*(int(required(raw, key)) for key in keys))
    return DecoderConfig(
        model_type="deepseek_v3",
        vocab_size=int(required(raw, "vocab_size")),
        hidden_size=int(required(raw, "hidden_size")),
        intermediate_size=int(required(raw, "intermediate_size")),
        rms_norm_eps=float(raw.get("rms_norm_eps") or 1e-6),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope=rope_parameters(raw),
        attention=(layer,) * layers,
        bos_token_id=raw.get("bos_token_id"),
        eos_token_id=raw.get("eos_token_id"),
        pad_token_id=raw.get("pad_token_id"),
    )
