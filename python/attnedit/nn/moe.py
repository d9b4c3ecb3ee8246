"""MoE: a mixture of experts in the place of the MLP."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attnedit import ops
from attnedit.checked import Layers, Size
from attnedit.nn.linear import Linear
from attnedit.nn.mlp import MLP
from attnedit.nn.module import Module
from attnedit.tensor import Tensor


@dataclass(frozen=True)
class MoEConfig:
    """Which layers have experts, how many and how wide. A router picks num_experts_per_tok for every token."""

    num_experts: Size
    num_experts_per_tok: Size
    moe_intermediate_size: Size
    norm_topk_prob: bool = False  # the picked experts' weights are divided by their sum
    decoder_sparse_step: Size = 1  # every which layer has experts
    mlp_only_layers: Annotated[tuple[Layers, ...], Field(max_length=10_000)] = ()  # that have none

    def __post_init__(self) -> None:
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok must be at most num_experts {self.num_experts}, got {self.num_experts_per_tok}"
            )

    def sparse(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


class MoE(Module):
    """sum over the picked experts of weight * expert(x); the router's weights follow Qwen3-MoE's softmax.

    The experts' own weights take no gradients: nothing trains them.
    """

    def __init__(self, hidden_size: int, config: MoEConfig) -> None:
        self.config = config
        self.gate = Linear(hidden_size, config.num_experts)  # the router
        self.experts = [MLP(hidden_size, config.moe_intermediate_size) for _ in range(config.num_experts)]

    def __call__(self, x: Tensor) -> Tensor:
        c = self.config
        routes = ops.moe_route(self.gate(x), c.num_experts_per_tok, c.norm_topk_prob)
        gate, up, down = zip(
            *((e.gate_proj.weight, e.up_proj.weight, e.down_proj.weight) for e in self.experts), strict=True
        )
        return ops.experts(x, routes, gate, up, down)
