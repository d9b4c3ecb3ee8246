"""The keys of config.json that families share, checked; null means absent, as in transformers."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from attnedit.checked import Epsilon, Length, Size, checked, shown
from attnedit.models.decoder import AttentionConfig, DecoderConfig
from attnedit.nn import RopeParameters

T = TypeVar("T")
# Wide, and so that no frequency, and no product of a few such numbers, leaves float32.
Theta = Annotated[float, Field(gt=1, le=1e30, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class SharedKeys:
    model_type: str
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=10_000)]
    num_attention_heads: Size
    rms_norm_eps: Epsilon = 1e-6
    tie_word_embeddings: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    max_position_embeddings: Length = 2048
    rope_theta: Theta = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None

    def decoder_config(self, model_type: str, attention: tuple[AttentionConfig, ...]) -> DecoderConfig:
        return DecoderConfig(
            model_type=model_type,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            rms_norm_eps=self.rms_norm_eps,
            tie_word_embeddings=self.tie_word_embeddings,
            rope=self.rope(),
            attention=attention,
            mlp_bias=self.mlp_bias,
            bos_token_id=self.bos_token_id,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.pad_token_id,
        )

    def rope(self) -> RopeParameters:
        """The library's precedence: a non-null rope_scaling, else rope_parameters; the block's own rope_theta first."""
        block = dict(self.rope_scaling or self.rope_parameters or {})
        if any(isinstance(value, dict) for value in block.values()):  # keyed by layer type: one block for all layers
            blocks = list(block.values())
            if any(b != blocks[0] for b in blocks):
                raise ValueError(
                    "[config.json] rope_parameters must be the same for all layer types, got different ones"
                )
            block = dict(blocks[0])
        old_spelling = block.pop("type", None)
        rope_type = block.pop("rope_type", None) or old_spelling or "default"
        if rope_type not in list(SCALINGS):
            raise ValueError(f"[config.json] rope_type must be one of {', '.join(SCALINGS)}, got {shown(rope_type)}")
        scaling = read_keys(SCALINGS[rope_type], block)
        if scaling.partial_rotary_factor != 1:
            raise ValueError(
                "[config.json] partial_rotary_factor must be 1, since all dims of a head rotate in this family, "
                f"got {scaling.partial_rotary_factor}"
            )
        theta = self.rope_theta if scaling.rope_theta is None else scaling.rope_theta
        kept = {k: v for k, v in block.items() if k not in Unscaled.__dataclass_fields__}
        return RopeParameters(theta, rope_type, self.max_position_embeddings, kept)


@dataclass(frozen=True, kw_only=True)
class Unscaled:
    """The rope block of rope_type default; the others add keys."""

    rope_theta: Theta | None = None
    partial_rotary_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(Unscaled):
    factor: Scale


@dataclass(frozen=True, kw_only=True)
class Llama3(Linear):
    low_freq_factor: Scale
    high_freq_factor: Scale
    original_max_position_embeddings: Length

    def __post_init__(self) -> None:
        if not self.high_freq_factor > self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must be greater than low_freq_factor {self.low_freq_factor}, "
                f"got {self.high_freq_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class Yarn(Linear):
    original_max_position_embeddings: Length | None = None
    beta_fast: Scale | None = None
    beta_slow: Scale | None = None
    truncate: bool = True
    attention_factor: Scale | None = None
    mscale: Scale | Literal[0] | None = None
    mscale_all_dim: Scale | Literal[0] | None = None


SCALINGS: dict[str, type[Unscaled]] = {"default": Unscaled, "linear": Linear, "llama3": Llama3, "yarn": Yarn}


def read_keys(kind: type[T], raw: dict[str, Any], where: str = "", extra: Literal["forbid", "ignore"] = "ignore") -> T:
    """Raises ValueError in one line; `where` is the place within config.json."""
    return checked(kind, {k: v for k, v in raw.items() if v is not None}, f"[config.json] {where}", extra)
