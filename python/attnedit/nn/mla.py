"""Multi-head latent attention in DeepSeek's form (arXiv 2405.04434), so that stock engines load it."""

from dataclasses import dataclass

from attnedit import ops
from attnedit.checked import Even, Size
from attnedit.nn.linear import Linear
from attnedit.nn.module import Module
from attnedit.nn.rms_norm import RMSNorm
from attnedit.nn.rope import Rope, yarn_mscale
from attnedit.tensor import Tensor

LATENT_NORM_EPS = 1e-6  # hard-coded in the stock classes, whatever the model's rms_norm_eps is


@dataclass(frozen=True)
class MLAConfig:
    num_attention_heads: Size
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Even
    v_head_dim: Size

    def cached_numbers(self, length: int) -> int:
        """Numbers in the cache after `length` tokens: the latent and the one rotary key."""
        return length * (self.kv_lora_rank + self.qk_rope_head_dim)


class MLA(Module):
    """Training and prefill use the expanded form: every head has its own key and value again.

    Rows: q_proj per head nope then rope; kv_a_proj_with_mqa latent then rotary key; kv_b_proj per head key then value.
    Rotary rows are interleaved pairs.
    """

    def __init__(self, hidden_size: int, config: MLAConfig, rope: Rope) -> None:
        c, heads = config, config.num_attention_heads
        self.config = config
        self.rope = rope
        self.q_proj = Linear(hidden_size, heads * (c.qk_nope_head_dim + c.qk_rope_head_dim))
        self.kv_a_proj_with_mqa = Linear(hidden_size, c.kv_lora_rank + c.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
        self.o_proj = Linear(heads * c.v_head_dim, hidden_size)

    @property
    def scale(self) -> float:
        scale = (self.config.qk_nope_head_dim + self.config.qk_rope_head_dim) ** -0.5
        all_dim = self.rope.parameters.scaling.get("mscale_all_dim")
        if self.rope.parameters.rope_type != "default" and all_dim:
            scale *= yarn_mscale(float(self.rope.parameters.scaling["factor"]), float(all_dim)) ** 2
        return float(scale)

    def __call__(self, u: Tensor) -> Tensor:
        c, heads = self.config, self.config.num_attention_heads
        cos, sin = self.rope.tables(u.shape[1])
        q = ops.rope(self.q_proj(u), cos, sin, heads, offset=c.qk_nope_head_dim, interleaved=True)
        norm = self.kv_a_layernorm
        latent, k_rope = ops.mla_compress(self.kv_a_proj_with_mqa(u), norm.weight, norm.eps, cos, sin)
        k, v = ops.mla_expand(self.kv_b_proj(latent), k_rope, heads, c.v_head_dim)
        return self.o_proj(ops.attention(q, k, v, heads, heads, self.scale))
