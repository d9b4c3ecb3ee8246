"""Differentiable functions over the kernels: each allocates its outputs, launches, and records its backward.

Activations are [B, T, width]; heads lie side by side in the last dimension. N below is B * T.
"""

from attnedit.ops.attention import attention, mla_compress, mla_expand
from attnedit.ops.decode import cache_store, decode_attention, mla_absorb_query, mla_absorb_value, mla_decode
from attnedit.ops.layers import add, embedding, linear, rms_norm, rope, swiglu
from attnedit.ops.losses import SquaredError, cosine_loss, cross_entropy, fused_kl, fused_mse, gram, logit_mse
from attnedit.ops.moe import Routes, experts, moe_route

__all__ = [
    "Routes",
    "SquaredError",
    "add",
    "attention",
    "cache_store",
    "cosine_loss",
    "cross_entropy",
    "decode_attention",
    "embedding",
    "experts",
    "fused_kl",
    "fused_mse",
    "gram",
    "linear",
    "logit_mse",
    "mla_absorb_query",
    "mla_absorb_value",
    "mla_compress",
    "mla_decode",
    "mla_expand",
    "moe_route",
    "rms_norm",
    "rope",
    "swiglu",
]
