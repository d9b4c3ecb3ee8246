"""model_type mistral4 without a shared expert: MLA and a mixture of experts, all of a layer in one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from attnedit.checked import Layers, Size, shown
from attnedit.models.decoder import DecoderConfig
from attnedit.models.keys import SharedKeys, read_keys
from attnedit.models.llama import tensor_name
from attnedit.nn import MLAConfig, MoEConfig
from attnedit.tensor import Array

__all__ = ["decoder_config", "tensor_name", "unpacked"]


@dataclass(frozen=True, kw_only=True)
class Mistral4Keys(SharedKeys):
    """What a plain mixture does not have is refused by its key."""

    rope_parameters: dict[str, Any] = field()  # without field(), SharedKeys' default would stay
    n_routed_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    first_k_dense_replace: Layers
    norm_topk_prob: bool
    n_shared_experts: Literal[0]
    n_group: Literal[1]
    topk_group: Literal[1]
    routed_scaling_factor: float = 1.0
    q_lora_rank: None = None
    attention_bias: Literal[False] = False
    rope_interleave: Literal[True] = True
    hidden_act: Literal["silu"] = "silu"


def decoder_config(raw: dict[str, Any]) -> DecoderConfig:
    """config.json -> DecoderConfig. The rotary share must be qk_rope_head_dim, rounded down as the class does."""
    keys, layer = read_keys(Mistral4Keys, raw), read_keys(MLAConfig, raw)
    width, block = layer.qk_nope_head_dim + layer.qk_rope_head_dim, dict(keys.rope_parameters)
    share, beta = block.pop("partial_rotary_factor", None), block.pop("llama_4_scaling_beta", None)
    for key, right, wanted, got in (
        ("rope_parameters.llama_4_scaling_beta", beta == 0, "0", beta),
        ("routed_scaling_factor", keys.routed_scaling_factor == 1, "1", keys.routed_scaling_factor),
        ("rope_parameters.partial_rotary_factor",
         isinstance(share, float) and layer.qk_rope_head_dim <= share * width < layer.qk_rope_head_dim + 1,
         f"qk_rope_head_dim {layer.qk_rope_head_dim} of {width}", share),
    ):  # fmt: skip
        if not right:
            raise ValueError(f"[config.json] {key} must be {wanted}, got {shown(got)}")
    dense = list(range(keys.first_k_dense_replace))
    moe = read_keys(MoEConfig, raw | {"num_experts": keys.n_routed_experts, "decoder_sparse_step": 1,
                                      "mlp_only_layers": dense})  # fmt: skip
    plain = replace(keys, rope_parameters=block, rope_scaling=None)
    return replace(plain.decoder_config("mistral4", (layer,) * keys.num_hidden_layers), moe=moe)


def unpacked(config: DecoderConfig, stored: Mapping[str, Array]) -> Mapping[str, Array]:
    """Without the shared expert, which has no rows."""
    return {name: array for name, array in stored.items() if ".mlp.shared_experts." not in name}
