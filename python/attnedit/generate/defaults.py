"""What a folder's generation_config.json says, for whatever the caller leaves open."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from attnedit.checked import Epsilon, Length, checked
from attnedit.generate.sampling import Sampling
from attnedit.models import DecoderConfig

NEW_TOKENS = 128
SAMPLED_TOP_K = 50  # transformers' own, where a folder samples and names none

Token = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """The keys that are read here, in transformers' meaning; null means absent."""

    do_sample: bool = False
    temperature: Epsilon = 1.0
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Length = NEW_TOKENS
    eos_token_id: tuple[Token, ...] = ()  # a single number there is one of a list here

    @classmethod
    def of(cls, config: DecoderConfig) -> "GenerationConfig":
        """Raises ValueError in one line for values that mean nothing."""
        stated = {key: value for key, value in config.generation.items() if value is not None}
        if isinstance(stated.get("eos_token_id"), int):
            stated["eos_token_id"] = [stated["eos_token_id"]]
        return checked(cls, stated, "[generation_config.json] ", "ignore")

    def sampling(self, temperature: float | None, top_k: int | None, top_p: float | None, seed: int) -> Sampling:
        """The caller's numbers where there are some. A folder that does not sample is greedy, unless told otherwise."""
        open_top_k = SAMPLED_TOP_K if self.do_sample else 0
        return Sampling(
            (self.temperature if self.do_sample else 0.0) if temperature is None else temperature,
            (open_top_k if self.top_k is None else self.top_k) if top_k is None else top_k,
            self.top_p if top_p is None else top_p,
            seed,
        )
