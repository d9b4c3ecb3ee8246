"""An edited model in transformers: configuration and model in one file that needs torch and transformers only.

Exported folders carry a copy of this file, which `trust_remote_code=True` loads; `import attnedit.hf` registers it.
config.json writes out every layer's attention: "gqa", "gate_swa" or "mla". MLA caches its latent and the one rotary
key, sliding layers their window.
"""

import inspect
import math
from collections import Counter

import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LATENT_NORM_EPS = 1e-6  # DeepSeek's, whatever rms_norm_eps is


class AttnEditConfig(PretrainedConfig):
    """Hugging Face's keys, `attention`: a list with every layer's type and sizes, and `moe`: the experts, if any."""

    model_type = "attnedit"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self, attention=(), vocab_size=32, hidden_size=8, intermediate_size=8, rms_norm_eps=1e-6, mlp_bias=False,
        moe=None, rope_parameters=None, max_position_embeddings=2048, initializer_range=0.02, use_cache=True,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None, **kwargs,
    ):  # fmt: skip
        self.attention = [dict(layer) for layer in attention]
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.rms_norm_eps, self.mlp_bias, self.rope_parameters = rms_norm_eps, mlp_bias, rope_parameters
        self.max_position_embeddings, self.initializer_range = max_position_embeddings, initializer_range
        self.use_cache = use_cache
        self.moe = None if moe is None else dict(moe)  # Qwen3-MoE's keys
        # The library's cache knows one window, of 2 at least: layers with another one are cached whole, and masked.
        windows = [layer.get("sliding_window") for layer in self.attention]
        common = Counter(window for window in windows if window is not None and window >= 2).most_common(1)
        derived = {
            "sliding_window": common[0][0] if common else None,
            "layer_types": [
                "sliding_attention" if common and window == common[0][0] else "full_attention" for window in windows
            ],
            "num_hidden_layers": len(self.attention),
            "num_attention_heads": max((layer["num_attention_heads"] for layer in self.attention), default=1),
        }
        for name, value in derived.items():
            kwargs.pop(name, None)
            setattr(self, name, value)
        super().__init__(
            tie_word_embeddings=tie_word_embeddings, bos_token_id=bos_token_id, eos_token_id=eos_token_id,
            pad_token_id=pad_token_id, **kwargs,
        )  # fmt: skip


class AttnEditRMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def yarn_mscale(factor, mscale=1.0):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def frequencies(rope, dim, max_position_embeddings, device):
    """inv_freq [dim / 2] and the factor on cos and sin; made when asked for: a buffer would not survive loading."""
    theta, kind = rope["rope_theta"], rope.get("rope_type", "default")
    inv_freq = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
    original = rope.get("original_max_position_embeddings") or max_position_embeddings
    if kind == "linear":
        return inv_freq / rope["factor"], 1.0
    if kind == "llama3":
        turns = original * inv_freq / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - keep) * inv_freq / rope["factor"] + keep * inv_freq, 1.0
    if kind == "yarn":
        low, high = (
            dim * math.log(original / ((rope.get(key) or turns) * 2 * math.pi)) / (2 * math.log(theta))
            for key, turns in (("beta_fast", 32), ("beta_slow", 1))
        )
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        steps = torch.arange(dim // 2, dtype=torch.float32, device=device)
        ramp = ((steps - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        scale = rope.get("attention_factor")
        if scale is None:
            scale, mscale, all_dim = yarn_mscale(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")
            if mscale and all_dim:
                scale = yarn_mscale(rope["factor"], mscale) / yarn_mscale(rope["factor"], all_dim)
        return inv_freq / rope["factor"] * ramp + inv_freq * (1 - ramp), scale
    if kind != "default":
        raise ValueError(f"[attnedit] rope_type must be one of default, linear, llama3, yarn, got {kind!r}")
    return inv_freq, 1.0


def rotate(x, cos, sin, interleaved=False):
    """x [B, H, T, dim], cos and sin [B, T, dim / 2]. Interleaved pairs come out as halves: scores are the same."""
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class AttnEditAttention(nn.Module):
    """What both attentions share: the layer's settings, and the choice of the library's attention functions."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        self.settings = config.attention[layer_idx]
        self.sliding_window = self.settings.get("sliding_window")

    def attend(self, q, k, v, mask, scaling, kwargs):
        name = self.config._attn_implementation
        attention = eager_attention if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        out, _ = attention(self, q, k, v, mask, scaling=scaling, sliding_window=self.sliding_window, **kwargs)
        return out


class AttnEditGroupedAttention(AttnEditAttention):
    """Grouped-query attention, with an output gate that reads what the query reads where the type is gate_swa."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        s, D = self.settings, config.hidden_size
        heads, kv_heads, d = s["num_attention_heads"], s["num_key_value_heads"], s["head_dim"]
        self.rotary_dim = self.head_dim = d
        self.num_key_value_groups = heads // kv_heads
        self.q_proj = nn.Linear(D, heads * d, bias=s["qkv_bias"])
        self.k_proj = nn.Linear(D, kv_heads * d, bias=s["qkv_bias"])
        self.v_proj = nn.Linear(D, kv_heads * d, bias=s["qkv_bias"])
        self.o_proj = nn.Linear(heads * d, D, bias=s["o_bias"])
        self.q_norm = AttnEditRMSNorm(d, s["norm_eps"]) if s["qk_norm"] else nn.Identity()
        self.k_norm = AttnEditRMSNorm(d, s["norm_eps"]) if s["qk_norm"] else nn.Identity()
        gates = 0 if s["type"] == "gqa" else heads if s["gate_per"] == "head" else heads * d
        self.g_proj = nn.Linear(D, gates, bias=False) if gates else None

    def forward(self, u, cos, sin, mask, cache, kwargs):
        shape = (*u.shape[:2], -1, self.head_dim)
        q, k, v = (projection(u).view(shape) for projection in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (x.transpose(1, 2) for x in (self.q_norm(q), self.k_norm(k), v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        out = self.attend(q, k, v, mask, self.head_dim**-0.5, kwargs)
        if self.g_proj is not None:
            gate = self.g_proj(u)
            gate = gate.sigmoid() if self.settings["gate"] == "sigmoid" else nn.functional.softplus(gate.float())
            out = out * gate.to(out.dtype).view(*u.shape[:2], out.shape[2], -1)
        return self.o_proj(out.reshape(*u.shape[:2], -1))


class AttnEditLatentAttention(AttnEditAttention):
    """MLA in DeepSeek's form: rows of q_proj per head nope then rope, rotary rows in interleaved pairs."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        s, D = self.settings, config.hidden_size
        self.heads, self.rank, self.num_key_value_groups = s["num_attention_heads"], s["kv_lora_rank"], 1
        self.nope, self.rotary_dim, self.v_dim = s["qk_nope_head_dim"], s["qk_rope_head_dim"], s["v_head_dim"]
        self.q_proj = nn.Linear(D, self.heads * (self.nope + self.rotary_dim), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(D, self.rank + self.rotary_dim, bias=False)
        self.kv_a_layernorm = AttnEditRMSNorm(self.rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.rank, self.heads * (self.nope + self.v_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * self.v_dim, D, bias=False)
        rope = config.rope_parameters
        self.scaling = (self.nope + self.rotary_dim) ** -0.5
        if rope.get("rope_type", "default") != "default" and rope.get("mscale_all_dim"):
            self.scaling *= yarn_mscale(rope["factor"], rope["mscale_all_dim"]) ** 2

    def forward(self, u, cos, sin, mask, cache, kwargs):
        B, T, _ = u.shape
        q = self.q_proj(u).view(B, T, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split([self.nope, self.rotary_dim], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(u).split([self.rank, self.rotary_dim], dim=-1)
        latent, k_rope = self.kv_a_layernorm(latent)[:, None], rotate(k_rope[:, None], cos, sin, interleaved=True)
        if cache is not None:
            latent, k_rope = cache.update(latent, k_rope, self.layer_idx)
        k, v = self.kv_b_proj(latent[:, 0]).view(B, latent.shape[2], self.heads, -1).transpose(1, 2).split(
            [self.nope, self.v_dim], dim=-1
        )  # fmt: skip
        q = torch.cat([q_nope, rotate(q_rope, cos, sin, interleaved=True)], dim=-1)
        k = torch.cat([k, k_rope.expand(-1, self.heads, -1, -1)], dim=-1)
        return self.o_proj(self.attend(q, k, v, mask, self.scaling, kwargs).reshape(B, T, -1))


class AttnEditMLP(nn.Module):
    def __init__(self, config, inner=None):
        super().__init__()
        D, bias = config.hidden_size, config.mlp_bias and inner is None  # an expert has none
        inner = inner or config.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(D, inner, bias=bias), nn.Linear(D, inner, bias=bias)
        self.down_proj = nn.Linear(inner, D, bias=bias)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class AttnEditMoE(nn.Module):
    """Qwen3-MoE's: softmax over all experts, of which every token takes the greatest few."""

    def __init__(self, config):
        super().__init__()
        moe = config.moe
        self.top_k, self.norm = moe["num_experts_per_tok"], moe.get("norm_topk_prob", False)
        self.gate = nn.Linear(config.hidden_size, moe["num_experts"], bias=False)
        width = moe["moe_intermediate_size"]
        self.experts = nn.ModuleList([AttnEditMLP(config, width) for _ in range(moe["num_experts"])])

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        weights, picked = self.gate(rows).softmax(-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        if self.norm:
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        for e in picked.unique().tolist():
            token, place = (picked == e).nonzero(as_tuple=True)
            y.index_add_(0, token, self.experts[e](rows[token]) * weights[token, place, None].to(rows.dtype))
        return y.view_as(x)


def has_experts(config, layer_idx):
    if config.moe is None or layer_idx in config.moe.get("mlp_only_layers", ()):
        return False
    return (layer_idx + 1) % config.moe.get("decoder_sparse_step", 1) == 0


class AttnEditDecoderLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        latent = config.attention[layer_idx]["type"] == "mla"
        self.self_attn = (AttnEditLatentAttention if latent else AttnEditGroupedAttention)(config, layer_idx)
        self.mlp = (AttnEditMoE if has_experts(config, layer_idx) else AttnEditMLP)(config)
        self.input_layernorm = AttnEditRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = AttnEditRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, h, cos, sin, mask, cache, kwargs):
        h = h + self.self_attn(self.input_layernorm(h), cos, sin, mask, cache, kwargs)
        return h + self.mlp(self.post_attention_layernorm(h))


class AttnEditPreTrainedModel(PreTrainedModel):
    config_class = AttnEditConfig
    base_model_prefix = "model"
    _no_split_modules = ["AttnEditDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True


class AttnEditModel(AttnEditPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([AttnEditDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = AttnEditRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        use_cache=None, output_hidden_states=False, **kwargs,
    ):  # fmt: skip
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("[attnedit] exactly one of input_ids and inputs_embeds must be given")
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if (self.config.use_cache if use_cache is None else use_cache) and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + h.shape[1], device=h.device)[None]
        masks = attention_mask
        if not isinstance(masks, dict):  # generate may have prepared them
            masks = self.masks(h, attention_mask, past_key_values, position_ids)
        tables = {}
        for dim in {layer.self_attn.rotary_dim for layer in self.layers}:
            longest = self.config.max_position_embeddings
            inv_freq, factor = frequencies(self.config.rope_parameters, dim, longest, h.device)
            angles = position_ids[..., None].float() * inv_freq
            tables[dim] = (angles.cos() * factor).to(h.dtype), (angles.sin() * factor).to(h.dtype)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("cache_position", "return_dict")}
        states = [h]
        for layer in self.layers:
            mask = masks[self.kind(layer.self_attn)]
            h = layer(h, *tables[layer.self_attn.rotary_dim], mask, past_key_values, kwargs)
            states.append(h)
        h = self.norm(h)
        hidden = (*states[:-1], h) if output_hidden_states else None
        return BaseModelOutputWithPast(last_hidden_state=h, past_key_values=past_key_values, hidden_states=hidden)

    def kind(self, attention):
        """The key of a layer's mask: its layer type, or its window where the cache holds more than that."""
        layer_type = self.config.layer_types[attention.layer_idx]
        odd = layer_type == "full_attention" and attention.sliding_window is not None
        return f"window_{attention.sliding_window}" if odd else layer_type

    def masks(self, h, attention_mask, cache, position_ids):
        names = inspect.signature(create_causal_mask).parameters
        given = {"config": self.config, "attention_mask": attention_mask, "past_key_values": cache}
        given |= {"position_ids": position_ids, "inputs_embeds" if "inputs_embeds" in names else "input_embeds": h}
        if "cache_position" in names:  # transformers 4
            seen = 0 if cache is None else cache.get_seq_length()
            given["cache_position"] = torch.arange(seen, seen + h.shape[1], device=h.device)
        made = {}
        for attention in (layer.self_attn for layer in self.layers):
            kind, window = self.kind(attention), attention.sliding_window
            if kind in made:
                continue
            if kind == "sliding_attention":
                made[kind] = create_sliding_window_causal_mask(**given)
            elif kind == "full_attention":
                made[kind] = create_causal_mask(**given)
            else:
                made[kind] = create_causal_mask(
                    **given, and_mask_function=lambda b, head, q, k, window=window: k > q - window
                )
        return made


class AttnEditForCausalLM(AttnEditPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = AttnEditModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None, logits_to_keep=0, output_hidden_states=False, **kwargs,
    ):  # fmt: skip
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache,
            output_hidden_states=output_hidden_states, **kwargs,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=out.past_key_values, hidden_states=out.hidden_states
        )
