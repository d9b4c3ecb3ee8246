"""What the formats' config.json and tensors have in common."""

from collections.abc import Callable
from typing import Any

from attnedit.models import Decoder, DecoderConfig
from attnedit.tensor import Array

# Names -> what makes the array: asked once each while shards are filled, so that no second model lies in memory.
Tensors = dict[str, Callable[[], Array]]


def shared_keys(config: DecoderConfig, model_type: str, architecture: str) -> dict[str, Any]:
    """Every key whose default differs between classes is written, null ids included."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.attention[0].num_attention_heads,
        "max_position_embeddings": config.rope.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def rope_keys(config: DecoderConfig) -> dict[str, Any]:
    """Both spellings: with only one of them, transformers 4.57 or 5.x reads another theta without a word."""
    rope = config.rope
    block = {"rope_type": rope.rope_type, **rope.scaling}
    return {
        "rope_theta": rope.rope_theta,
        "rope_scaling": None if rope.rope_type == "default" else block,
        "rope_parameters": {"rope_theta": rope.rope_theta, **block},
    }


def rope_by_layer_type(config: DecoderConfig, **more: float) -> dict[str, Any]:
    """For classes that rotate each layer type by its own block; a rope_scaling beside it, even null, breaks some."""
    rope = config.rope
    block = {"rope_type": rope.rope_type, "rope_theta": rope.rope_theta, **rope.scaling, **more}
    return {"rope_parameters": {"full_attention": block, "sliding_attention": block}}


def renamed(model: Decoder, tensor_name: Callable[[str], str]) -> Tensors:
    """For formats that store every parameter as it is."""
    return {tensor_name(path): parameter.numpy for path, parameter in model.named_parameters()}
