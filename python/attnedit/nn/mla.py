"""Multi-head latent attention in DeepSeek's form (arXiv 2405.04434), so that stock engines load it."""

from dataclasses import dataclass

from attnedit import ops
from attnedit.checked import Even, Size
from attnedit.nn.cache import LayerCache
from attnedit.nn.linear import Linear
from attnedit.nn.module import Module
from attnedit.nn.rms_norm import RMSNorm
from attnedit.nn.rope import Rope, yarn_mscale
from attnedit.tensor import Array, Tensor

LATENT_NORM_EPS = 1e-6  # hard-coded in the stock classes, whatever the model's rms_norm_eps is


@dataclass(frozen=True)
class MLAConfig:
    num_attention_heads: Size
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Even
    v_head_dim: Size

    @property
    def cached_widths(self) -> tuple[int, ...]:
        """Numbers that a cached token takes, in one array: the latent and the one rotary key."""
        return (self.kv_lora_rank + self.qk_rope_head_dim,)

    def cached_tokens(self, length: int) -> int:
        """How many of `length` tokens the cache holds."""
        return length

    def cached_numbers(self, length: int) -> int:
        """Numbers in the cache after `length` tokens."""
        return self.cached_tokens(length) * sum(self.cached_widths)


class MLA(Module):
    """Training and prefill use the expanded form: every head has its own key and value again. Decoding uses the
    absorbed one, over the cached latents as they are.

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

    def __call__(self, u: Tensor, cache: LayerCache | None = None, document_starts: Array | None = None) -> Tensor:
        c, heads = self.config, self.config.num_attention_heads
        cos, sin = self.rope.tables(u.shape[1]) if cache is None else cache.tables(self.rope)
        q = ops.rope(self.q_proj(u), cos, sin, heads, offset=c.qk_nope_head_dim, interleaved=True)
        norm = self.kv_a_layernorm
        latent, k_rope = ops.mla_compress(self.kv_a_proj_with_mqa(u), norm.weight, norm.eps, cos, sin)
        if cache is not None:
            cache.store(latent)
            cache.store(k_rope, offset=c.kv_lora_rank)
            if cache.decoding:
                return self.o_proj(self.absorbed(q, cache))
        k, v = ops.mla_expand(self.kv_b_proj(latent), k_rope, heads, c.v_head_dim)
        return self.o_proj(ops.attention(q, k, v, heads, heads, self.scale, document_starts=document_starts))

    def absorbed(self, q: Tensor, cache: LayerCache) -> Tensor:
        """The heads' outputs for the newest tokens, before o_proj: kv_b_proj moves to the query and to the output."""
        c, heads, kv_b = self.config, self.config.num_attention_heads, self.kv_b_proj.weight
        q_latent, q_rope = ops.mla_absorb_query(q, kv_b, heads, c.qk_rope_head_dim)
        o = ops.mla_decode(q_latent, q_rope, cache.arrays[0], cache.filled, heads, self.scale)
        return ops.mla_absorb_value(o, kv_b, heads, c.v_head_dim)
