"""A mixture of experts as formats write it: keys, all experts of a layer in one tensor, a shared expert that adds 0."""

from functools import partial
from typing import Any

import numpy as np

from attnedit.export.keys import Tensors
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import MoE, MoEConfig
from attnedit.tensor import Array


def mixture(config: DecoderConfig) -> MoEConfig:
    """The mixture of a model that has one."""
    assert config.moe is not None
    return config.moe


def sparse_layers(config: DecoderConfig) -> list[int]:
    return [i for i in range(config.num_hidden_layers) if config.sparse(i)]


def expert_keys(config: DecoderConfig) -> dict[str, Any]:
    """As Qwen3-MoE calls them, the dense layers named one by one."""
    moe = mixture(config)
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "moe_intermediate_size": moe.moe_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.num_hidden_layers) if not config.sparse(i)],
        "output_router_logits": False,
    }


def fused(model: Decoder) -> Tensors:
    """Parameter paths -> arrays with all experts of a layer in `mlp.experts.gate_up_proj` [E, 2 F, D], an expert's gate
    before its up, and `mlp.experts.down_proj` [E, D, F]."""
    made: Tensors = {path: p.numpy for path, p in model.named_parameters() if ".mlp.experts." not in path}
    for i in sparse_layers(model.config):
        mlp = model.layers[i].mlp
        assert isinstance(mlp, MoE)
        made[f"layers.{i}.mlp.experts.gate_up_proj"] = partial(_gates_and_ups, mlp)
        made[f"layers.{i}.mlp.experts.down_proj"] = partial(_downs, mlp)
    return made


def _gates_and_ups(mlp: MoE) -> Array:
    return np.stack([np.concatenate([e.gate_proj.weight.numpy(), e.up_proj.weight.numpy()]) for e in mlp.experts])


def _downs(mlp: MoE) -> Array:
    return np.stack([e.down_proj.weight.numpy() for e in mlp.experts])


def shared_expert(config: DecoderConfig, layer: int, name: str, width: int) -> Tensors:
    """Parameter paths of a shared expert of zeros, for classes that always have one; width 0 leaves nothing of it."""
    at, hidden = f"layers.{layer}.mlp.{name}", config.hidden_size
    shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
    return {f"{at}.{part}.weight": partial(np.zeros, shape, np.float32) for part, shape in shapes.items()}
