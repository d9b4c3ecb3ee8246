"""Decoder: the pre-norm transformer that all families share; what differs between layers is their attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from attnedit import notebook, ops
from attnedit.autograd import no_grad, recompute
from attnedit.models.pages import give_back_all
from attnedit.nn import (
    GQA,
    MLA,
    MLP,
    Embedding,
    GateSWA,
    GateSWAConfig,
    GQAConfig,
    LayerCache,
    Linear,
    MLAConfig,
    Module,
    MoE,
    MoEConfig,
    RMSNorm,
    Rope,
    RopeParameters,
)
from attnedit.tensor import Array, Tensor

AttentionConfig: TypeAlias = GQAConfig | GateSWAConfig | MLAConfig
Attention: TypeAlias = GQA | GateSWA | MLA


@dataclass(frozen=True)
class DecoderConfig:
    """Hugging Face's keys, and one attention per layer."""

    model_type: str  # the family that the unedited weights come from
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: RopeParameters
    attention: tuple[AttentionConfig, ...]
    mlp_bias: bool = False
    moe: MoEConfig | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # that the weights are stored in
    # generation_config.json as it lies beside the weights: `generate` reads it, nothing of the model depends on it
    generation: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.attention)

    def sparse(self, layer: int) -> bool:
        """Whether this layer has a mixture of experts."""
        return self.moe is not None and self.moe.sparse(layer)

    @property
    def full_layers(self) -> list[int]:
        """Those whose cache grows with the context."""
        return [i for i, layer in enumerate(self.attention) if getattr(layer, "sliding_window", None) is None]

    def kv_numbers(self, length: int) -> int:
        """Numbers in the key-value cache of all layers after `length` tokens."""
        return sum(layer.cached_numbers(length) for layer in self.attention)


def described(layer: AttentionConfig) -> str:
    """An attention in words, with the sizes that decide about its cache."""
    if isinstance(layer, MLAConfig):
        return (
            f"MLA (kv_lora_rank {layer.kv_lora_rank}, qk_nope_head_dim {layer.qk_nope_head_dim}, "
            f"qk_rope_head_dim {layer.qk_rope_head_dim}, v_head_dim {layer.v_head_dim})"
        )
    seen = "full" if layer.sliding_window is None else f"sliding window {layer.sliding_window}"
    gate = f", {layer.gate} gate per {layer.gate_per}" if isinstance(layer, GateSWAConfig) else ""
    return f"grouped-query attention ({layer.num_attention_heads} over {layer.num_key_value_heads} heads, {seen}{gate})"


def make_attention(config: DecoderConfig, layer: int, ropes: dict[int, Rope]) -> Attention:
    """An attention whose parameters are unset. Layers of one rotary width share its tables through `ropes`."""
    c = config.attention[layer]
    dim = c.qk_rope_head_dim if isinstance(c, MLAConfig) else c.head_dim
    rope = ropes.setdefault(dim, Rope(config.rope, dim))
    if isinstance(c, MLAConfig):
        return MLA(config.hidden_size, c, rope)
    if isinstance(c, GateSWAConfig):
        return GateSWA(config.hidden_size, c, rope)
    return GQA(config.hidden_size, c, rope)


def edited_layers(student: DecoderConfig, teacher: DecoderConfig) -> list[int]:
    """Those whose attention is not the teacher's any more."""
    pairs = zip(student.attention, teacher.attention, strict=True)
    return [i for i, (ours, theirs) in enumerate(pairs) if ours != theirs]


class Block(Module):
    """h + attention(norm(h)), then h + mlp(norm(h))."""

    def __init__(self, config: DecoderConfig, layer: int, ropes: dict[int, Rope]) -> None:
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn: Attention = make_attention(config, layer, ropes)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MLP | MoE
        if config.moe is not None and config.sparse(layer):
            self.mlp = MoE(config.hidden_size, config.moe)
        else:
            self.mlp = MLP(config.hidden_size, config.intermediate_size, config.mlp_bias)

    def attention(self, h: Tensor, cache: LayerCache | None = None, document_starts: Array | None = None) -> Tensor:
        """The attention's output for h, to be added to it."""
        return self.self_attn(self.input_layernorm(h), cache, document_starts)

    def after_attention(self, h: Tensor, a: Tensor) -> Tensor:
        """The rest of the block, given the attention's output a for h."""
        h = ops.add(h, a)
        return ops.add(h, self.mlp(self.post_attention_layernorm(h)))

    def __call__(self, h: Tensor, cache: LayerCache | None = None, document_starts: Array | None = None) -> Tensor:
        return self.after_attention(h, self.attention(h, cache, document_starts))


def overflow(rows: Sequence[Array], **models: "Decoder") -> str:
    """For messages: which model's which part gives the first NaN or Inf on these rows of tokens."""
    for row in rows:
        for name, model in models.items():
            path = model.first_not_finite(np.ascontiguousarray(row[None]))
            if path is not None:
                return f"the {name}'s {path} gives NaN or Inf"
    return f"the numbers of {' or '.join(models)} overflow"


class Decoder(Module):
    """tokens int32 [B, T] -> hidden states [B, T, hidden_size] after the final norm; logits = hidden head^T."""

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config
        ropes: dict[int, Rope] = {}
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, i, ropes) for i in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)

    @property
    def head(self) -> Tensor:
        """[vocab_size, hidden_size]"""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def __call__(
        self,
        tokens: Array,
        features: list[Tensor] | None = None,
        recompute_blocks: bool = False,
        caches: Sequence[LayerCache | None] | None = None,
        document_starts: Array | None = None,
    ) -> Tensor:
        """features collects every block's output; recompute_blocks keeps only these for the way back, and no
        block's mapped weights in memory behind its turn.

        caches, one for each layer, say where the tokens stand: models/cache.py fills them and decodes with them.
        document_starts, int32 [B, T]: where the document of each token begins, if a row holds several (ops.attention).
        Rotary positions count on along the row: a rotation only tells how far apart two tokens of a document stand.
        """
        h = self.embed_tokens(tokens)
        for block, cache in zip(self.layers, caches or [None] * len(self.layers), strict=True):
            if recompute_blocks:
                turn = partial(block, document_starts=document_starts)
                h = recompute(turn, h, behind=partial(give_back_all, block))
            else:
                h = block(h, cache, document_starts)
            if features is not None:
                features.append(h)
        return self.norm(h)

    def logits(self, tokens: Array) -> Tensor:
        """[B, T, vocab_size]: for few tokens; the losses never hold them."""
        return ops.linear(self(tokens), self.head)

    def first_not_finite(self, tokens: Array) -> str | None:
        """What gives the first NaN or Inf for tokens [B, T]: a path as parameters have it; None where nothing does."""
        with no_grad():
            h = self.embed_tokens(tokens)
            places = [("embed_tokens", h)]
            for i, block in enumerate(self.layers):
                a = block.self_attn(block.input_layernorm(h))
                h = block.after_attention(h, a)
                places += [(f"layers.{i}.self_attn", a), (f"layers.{i}.mlp", h)]
            places.append(("norm", self.norm(h)))
        return next((path for path, x in places if not np.isfinite(x.numpy()).all()), None)

    def frozen(self, path: str) -> bool:
        """Whether nothing trains this parameter: experts and their router stay as they are."""
        room, *rest = path.split(".")
        return room == "layers" and rest[1] == "mlp" and self.config.sparse(int(rest[0]))

    def num_parameters(self) -> int:
        return sum(parameter.size for parameter in self.parameters())

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for block in self.layers:
            kind = type(block.self_attn).__name__
            kinds[kind] = kinds.get(kind, 0) + 1
        layers = " + ".join(f"{n} {kind}" for kind, n in kinds.items())
        return f"Decoder({self.config.model_type}, {self.num_parameters():,} parameters, layers: {layers})"

    def _repr_html_(self) -> str:
        config, same = self.config, dict[str, list[str]]()
        for i, layer in enumerate(config.attention):
            same.setdefault(described(layer), []).append(str(i))
        longest = config.rope.max_position_embeddings
        rows = {
            "parameters": f"{self.num_parameters():,}",
            "sizes": f"hidden {config.hidden_size:,}, vocabulary {config.vocab_size:,}, context {longest:,}",
            **{f"layer {', '.join(layers)}": kind for kind, layers in same.items()},
            "KV cache": f"{config.kv_numbers(1):,} numbers a token, "
            f"{config.kv_numbers(longest):,} at {longest:,} tokens",
        }
        return notebook.table(f"Decoder, {config.model_type}", rows.items())
