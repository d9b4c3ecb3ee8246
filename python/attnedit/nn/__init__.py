"""Layers: parameters and the order of operations on them.

Attribute names are Hugging Face's, so a parameter's path is its tensor name. `u` is the normed hidden state that feeds
an attention, [B, T, hidden_size].
"""

from attnedit.nn.cache import LayerCache, Positions
from attnedit.nn.gate_swa import GateSWA, GateSWAConfig
from attnedit.nn.gqa import GQA, GQAConfig
from attnedit.nn.linear import Embedding, Linear
from attnedit.nn.mla import MLA, MLAConfig
from attnedit.nn.mlp import MLP
from attnedit.nn.module import Module
from attnedit.nn.moe import MoE, MoEConfig
from attnedit.nn.rms_norm import RMSNorm
from attnedit.nn.rope import Rope, RopeParameters

__all__ = [
    "GQA",
    "MLA",
    "MLP",
    "Embedding",
    "GQAConfig",
    "GateSWA",
    "GateSWAConfig",
    "LayerCache",
    "Linear",
    "MLAConfig",
    "MoE",
    "MoEConfig",
    "Module",
    "Positions",
    "RMSNorm",
    "Rope",
    "RopeParameters",
]
