"""Checkpoints that store all experts of a layer in one tensor, read as if every expert had its own."""

from collections.abc import Mapping

from attnedit.models.decoder import DecoderConfig
from attnedit.tensor import Array

GATE_UP, DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"


def split_experts(tensors: Mapping[str, Array], config: DecoderConfig) -> Mapping[str, Array]:
    """`mlp.experts.gate_up_proj` [E, 2 F, D], an expert's gate before its up, and `mlp.experts.down_proj` [E, D, F] as
    `mlp.experts.N.gate_proj.weight` and so on: views, nothing is copied. Other tensors pass.

    Raises ValueError where a fused tensor has another shape, or an expert is stored twice.
    """
    fused = [name for name in tensors if name.endswith((GATE_UP, DOWN))]
    if config.moe is None or not fused:
        return tensors
    experts, width, hidden = config.moe.num_experts, config.moe.moe_intermediate_size, config.hidden_size
    split = {name: tensors[name] for name in tensors if name not in fused}
    for name in fused:
        array, layer = tensors[name], name.rpartition(".")[0]
        if name.endswith(GATE_UP):
            parts = {"gate_proj": slice(0, width), "up_proj": slice(width, 2 * width)}
            wanted = (experts, 2 * width, hidden)
        else:
            parts, wanted = {"down_proj": slice(0, hidden)}, (experts, hidden, width)
        if array.shape != wanted:
            raise ValueError(f"[load] tensor {name} must have shape {wanted}, got {array.shape}")
        for expert in range(experts):
            for part, rows in parts.items():
                single = f"{layer}.{expert}.{part}.weight"
                if single in split:
                    raise ValueError(f"[load] tensor {single} is stored twice, {name} holds it too")
                split[single] = array[expert, rows]
    return split
