"""format qwen3_5_text: full attention with a sigmoid gate, as transformers' Qwen3_5ForCausalLM reads it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from attnedit.export.grouped import gated_everywhere, grouped, grouped_keys, refuse_grouped
from attnedit.export.keys import Tensors, rope_keys, shared_keys
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.llama import tensor_name
from attnedit.tensor import Array

__all__ = ["raw_config", "refuse", "tensors"]


def refuse(config: DecoderConfig, experts: bool = False) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return refuse_grouped(config, qk_norm=True, windows=False, gate="sigmoid", experts=experts)


def raw_config(
    config: DecoderConfig, model_type: str = "qwen3_5_text", architecture: str = "Qwen3_5ForCausalLM"
) -> dict[str, Any]:
    """DecoderConfig -> config.json. Without partial_rotary_factor the class rotates a quarter of each head."""
    rope = rope_keys(config)
    for block in (rope["rope_parameters"], rope["rope_scaling"] or {}):
        block["partial_rotary_factor"] = 1.0
    return {
        **shared_keys(config, model_type, architecture),
        **grouped_keys(config),
        **rope,
        "partial_rotary_factor": 1.0,
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "attention_bias": False,
    }


def tensors(model: Decoder) -> Tensors:
    """The gate's rows go behind each head's query rows; norm weights are stored less 1."""
    made = gated_everywhere(model, "sigmoid", "element")
    heads = grouped(model.config)[0].num_attention_heads
    stored: Tensors = {}
    for path, array in made.items():
        if path.endswith("norm.weight"):
            stored[tensor_name(path)] = _less_one(array)
        elif path.endswith("q_proj.weight"):
            stored[tensor_name(path)] = _interleaved(array, made[path.replace("q_proj", "g_proj")], heads)
        elif not path.endswith("g_proj.weight"):
            stored[tensor_name(path)] = array
    return stored


def _less_one(weight: Callable[[], Array]) -> Callable[[], Array]:
    return lambda: np.asarray(weight(), np.float32) - np.float32(1)


def _interleaved(query: Callable[[], Array], gate: Callable[[], Array], heads: int) -> Callable[[], Array]:
    def make() -> Array:
        q, g = query(), gate()
        dtype = q.dtype if q.dtype == g.dtype else np.float32
        return np.stack([np.asarray(x, dtype).reshape(heads, -1, x.shape[1]) for x in (q, g)], 1).reshape(
            -1, q.shape[1]
        )

    return make
