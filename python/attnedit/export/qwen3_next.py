"""format qwen3_next: full attention with a sigmoid gate, dense or with experts, as Qwen3NextForCausalLM reads it."""

from functools import partial
from typing import Any

import numpy as np

from attnedit.export import qwen3_5_text
from attnedit.export.experts import expert_keys, shared_expert, sparse_layers
from attnedit.export.keys import Tensors
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.qwen3_next import tensor_name

__all__ = ["raw_config", "refuse", "tensors"]

SHARED_WIDTH = 1  # the class always has a shared expert: this wide, of zeros


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return qwen3_5_text.refuse(config, experts=True)


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json; dense layers are named one by one."""
    dense = {"num_experts": 0, "decoder_sparse_step": 1, "mlp_only_layers": list(range(config.num_hidden_layers))}
    return {
        **qwen3_5_text.raw_config(config, "qwen3_next", "Qwen3NextForCausalLM"),
        **(dense if config.moe is None else expert_keys(config)),
        "shared_expert_intermediate_size": SHARED_WIDTH,
    }


def tensors(model: Decoder) -> Tensors:
    made = qwen3_5_text.tensors(model)
    for layer in sparse_layers(model.config):
        added = shared_expert(model.config, layer, "shared_expert", SHARED_WIDTH)
        added[f"layers.{layer}.mlp.shared_expert_gate.weight"] = partial(np.zeros, (1, model.config.hidden_size))
        made |= {tensor_name(path): array for path, array in added.items()}
    return made
