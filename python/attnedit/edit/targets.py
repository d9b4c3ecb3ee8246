"""What attention to edit into: the targets people write, checked against the source."""

from dataclasses import dataclass, replace
from typing import Literal

from attnedit.checked import Even, Length, Size, checked
from attnedit.models import DecoderConfig
from attnedit.models.decoder import AttentionConfig
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig

Init = Literal["regression", "svd", "random"]


@dataclass(frozen=True)
class MLA:
    """Multi-head latent attention in DeepSeek's form: kv_lora_rank + qk_rope_head_dim cached numbers a token."""

    kv_lora_rank: Size
    qk_nope_head_dim: Size | None = None  # default: the source's head_dim
    qk_rope_head_dim: Even | None = None  # default: the source's head_dim, at most 64
    v_head_dim: Size | None = None  # default: the source's head_dim
    init: Init = "regression"
    layers: tuple[int, ...] | None = None  # default: all

    def attention(self, source: DecoderConfig) -> tuple[AttentionConfig, ...]:
        """The edited layers' attention; the others keep theirs."""
        chosen = _chosen(self.layers, source)
        return tuple(
            self._edited(i, layer, source.hidden_size) if i in chosen else layer
            for i, layer in enumerate(source.attention)
        )

    def _edited(self, i: int, layer: AttentionConfig, hidden_size: int) -> MLAConfig:
        gqa = _grouped(i, layer)
        dims = {
            "num_attention_heads": gqa.num_attention_heads,
            "kv_lora_rank": self.kv_lora_rank,
            "qk_nope_head_dim": gqa.head_dim if self.qk_nope_head_dim is None else self.qk_nope_head_dim,
            "qk_rope_head_dim": min(gqa.head_dim, 64) if self.qk_rope_head_dim is None else self.qk_rope_head_dim,
            "v_head_dim": gqa.head_dim if self.v_head_dim is None else self.v_head_dim,
        }
        edited = checked(MLAConfig, dims, f"[edit] layer {i}: ")
        for key, most, what in (
            ("kv_lora_rank", hidden_size, "the hidden_size"),
            ("qk_rope_head_dim", gqa.head_dim, "the source's head_dim"),
        ):
            if dims[key] > most:
                raise ValueError(f"[edit] layer {i}: {key} must be at most {what} {most}, got {dims[key]}")
        width, wanted = gqa.num_attention_heads * edited.v_head_dim, gqa.num_attention_heads * gqa.head_dim
        if width != wanted:
            raise ValueError(
                f"[edit] layer {i}: num_heads * v_head_dim must equal o_proj's input width {wanted}, "
                f"got {gqa.num_attention_heads} * {edited.v_head_dim} = {width}"
            )
        if gqa.o_bias:
            raise ValueError(f"[edit] layer {i}: o_proj has a bias, which DeepSeek's form of MLA cannot hold")
        return edited


@dataclass(frozen=True)
class GateSWA:
    """Gated hybrid sliding-window attention: a window of `sliding_window` keys, the query's own included.

    full_layers keep full attention, gated like the others: a list, a period p (0, p, 2p, ...), or "auto": one of every
    six layers and one more, those whose full attention brings the distribution nearest to the teacher's.
    """

    sliding_window: Length = 128
    full_layers: tuple[int, ...] | int | Literal["auto"] = "auto"
    gate: Literal["sigmoid", "softplus"] = "sigmoid"
    gate_per: Literal["head", "element"] = "head"
    layers: tuple[int, ...] | None = None  # default: all

    def attention(self, source: DecoderConfig, full_layers: tuple[int, ...]) -> tuple[AttentionConfig, ...]:
        """The edited layers' attention with these layers full; the others keep theirs."""
        if self.sliding_window < 1:
            raise ValueError(f"[edit] sliding_window must be at least 1, got {self.sliding_window}")
        chosen = _chosen(self.layers, source)
        return tuple(
            self._edited(i, layer, i in full_layers) if i in chosen else layer
            for i, layer in enumerate(source.attention)
        )

    def _edited(self, i: int, layer: AttentionConfig, full: bool) -> GateSWAConfig:
        gqa = _grouped(i, layer)
        base = {k: getattr(gqa, k) for k in GQAConfig.__dataclass_fields__}
        edited = GateSWAConfig(**base, gate=self.gate, gate_per=self.gate_per)
        return edited if full else replace(edited, sliding_window=self.sliding_window)

    def fixed_full_layers(self, source: DecoderConfig) -> tuple[int, ...] | None:
        """The full layers where they are given; None for auto."""
        count = source.num_hidden_layers
        if self.full_layers == "auto":
            return None
        if isinstance(self.full_layers, int):
            if self.full_layers < 1:
                raise ValueError(f"[edit] full_layers as a period must be at least 1, got {self.full_layers}")
            return tuple(range(0, count, self.full_layers))
        _check_layers("full_layers", self.full_layers, count)
        return tuple(self.full_layers)

    @staticmethod
    def auto_count(source: DecoderConfig) -> int:
        """How many layers `auto` keeps full: 7 of 36 and 9 of 48, as hybrid models are built; 1 of 5."""
        return source.num_hidden_layers // 6 + 1


def _grouped(i: int, layer: AttentionConfig) -> GQAConfig:
    if type(layer) is not GQAConfig:
        raise ValueError(f"[edit] layer {i} must be grouped-query attention, got {type(layer).__name__}")
    return layer


def _chosen(layers: tuple[int, ...] | None, source: DecoderConfig) -> set[int]:
    if layers is None:
        return set(range(source.num_hidden_layers))
    if not layers:
        raise ValueError("[edit] layers must name at least one layer, got []")
    _check_layers("layers", layers, source.num_hidden_layers)
    return set(layers)


def _check_layers(name: str, layers: tuple[int, ...], count: int) -> None:
    wrong = [i for i in layers if not 0 <= i < count]
    if wrong or len(set(layers)) != len(layers):
        raise ValueError(f"[edit] {name} must be different numbers from 0 to {count - 1}, got {list(layers)}")
