"""Random students for every export format, with what their classes trip over: each format's tests read this table."""

from dataclasses import replace
from typing import Any

from tiny import random_decoder, tiny_config

from attnedit.models import Decoder
from attnedit.models.decoder import AttentionConfig
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig, MoEConfig, RopeParameters

ROPES = {
    "default": RopeParameters(1e4, "default", 64),
    "linear": RopeParameters(1e3, "linear", 64, {"factor": 2.5}),
    "llama3": RopeParameters(
        1e4, "llama3", 64,
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
    ),
    "yarn": RopeParameters(1e6, "yarn", 64, {"factor": 4.0, "original_max_position_embeddings": 16}),
}  # fmt: skip
# The heads' width is not the hidden size, and the latent's values are narrower than its keys.
LATENT = MLAConfig(4, kv_lora_rank=12, qk_nope_head_dim=10, qk_rope_head_dim=4, v_head_dim=6)


def grouped(**changes: Any) -> GQAConfig:
    return GQAConfig(4, 2, 8, **({"qk_norm": True} | changes))


def gated(**changes: Any) -> GateSWAConfig:
    return GateSWAConfig(4, 2, 8, **({"qk_norm": True} | changes))


def per_element(**changes: Any) -> GateSWAConfig:
    return gated(gate_per="element", **changes)


# Five layers: more than the dense prefix that some classes default to. Ungated layers among gated ones.
LAYERS: dict[str, tuple[AttentionConfig, ...]] = {
    "deepseek_v3": (LATENT,) * 5,
    "youtu": (LATENT,) * 5,
    "lfm3": (gated(), gated(sliding_window=5), grouped(sliding_window=5), grouped(), gated(sliding_window=5)),
    "laguna": (
        gated(gate="softplus", sliding_window=5), gated(gate="softplus"), per_element(gate="softplus"),
        grouped(sliding_window=5), per_element(gate="softplus", sliding_window=5),
    ),
    "qwen3_5_text": (per_element(), gated(), grouped(), per_element(), per_element()),
    "qwen3_next": (per_element(), gated(), grouped(), per_element(), per_element()),
    "qwen3": (grouped(), grouped(sliding_window=5), grouped(sliding_window=5), grouped(), grouped(sliding_window=5)),
    "mellum": (grouped(sliding_window=5), grouped(sliding_window=5), grouped(), grouped(), grouped(sliding_window=5)),
    "qwen2": (grouped(qk_norm=False, qkv_bias=True), grouped(qk_norm=False, qkv_bias=True, sliding_window=5)) * 2,
    "llama": (grouped(qk_norm=False, qkv_bias=True, o_bias=True),) * 5,
    "mistral4": (LATENT,) * 5,
    "qwen3_moe": (grouped(),) * 5,
    "attnedit": (
        per_element(sliding_window=5), gated(gate="softplus", sliding_window=7, qk_norm=False, qkv_bias=True), LATENT,
        per_element(sliding_window=5, gate="softplus"), gated(sliding_window=1),
    ),
}  # fmt: skip


EXPERTS = MoEConfig(6, 2, 12, norm_topk_prob=True)
SOME = replace(EXPERTS, mlp_only_layers=(1, 3))
# By variant: a mixture in all layers or in some, where the class can have one.
MIXTURES: dict[str, tuple[MoEConfig | None, ...]] = {
    "mistral4": (
        EXPERTS, replace(EXPERTS, norm_topk_prob=False, mlp_only_layers=(0, 1)),
        replace(EXPERTS, mlp_only_layers=(0,)), replace(EXPERTS, norm_topk_prob=False),
    ),
    "qwen3_moe": (EXPERTS, replace(SOME, norm_topk_prob=False), SOME, replace(EXPERTS, decoder_sparse_step=2)),
    "mellum": (None, SOME, replace(EXPERTS, norm_topk_prob=False), None),
    "qwen3_next": (None, SOME, replace(EXPERTS, norm_topk_prob=False), None),
    "attnedit": (None, SOME, replace(EXPERTS, decoder_sparse_step=2), None),
}  # fmt: skip


def student(format: str, variant: int = 0) -> Decoder:
    """Variants differ in rope, ties, eps and special tokens. Weights are as large as random_decoder draws them."""
    rope = list(ROPES)[variant % len(ROPES)]
    eps = (1e-6, 1e-5, 1e-3, 1e-2)[variant % 4]
    slides = {"sliding_window": 5} if format == "qwen3_moe" and variant % 2 else {}  # in all layers or in none
    layers = [
        layer if isinstance(layer, MLAConfig) else replace(layer, norm_eps=eps, **slides) for layer in LAYERS[format]
    ]
    config = tiny_config(
        attention=tuple(layers), rope=ROPES[rope], rms_norm_eps=eps, vocab_size=50,
        tie_word_embeddings=variant % 2 == 0, mlp_bias=format in ("llama", "attnedit") and variant % 2 == 1,
        moe=MIXTURES.get(format, (None,) * 4)[variant], bos_token_id=0, eos_token_id=[3, 4],
        pad_token_id=7 if variant < 2 else None,
    )  # fmt: skip
    return random_decoder(config, variant)
