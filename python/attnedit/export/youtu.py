"""format youtu: dense MLA in every layer, as transformers' YoutuForCausalLM reads it."""

from typing import Any

from attnedit.export.keys import Tensors, renamed, shared_keys
from attnedit.export.latent import latent_keys
from attnedit.export.latent import refuse_latent as refuse
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.llama import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json. The padding token is left to generation_config.json: this class zeroes its
    embedding when it loads."""
    return {
        **shared_keys(config, "youtu", "YoutuForCausalLM"),
        **latent_keys(config),
        "pad_token_id": None,
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, tensor_name)
