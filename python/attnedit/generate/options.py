"""What a caller of `generate` may say, checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from attnedit.checked import Length, checked
from attnedit.generate.sampling import Seed, Temperature, TopK, TopP

Token = Annotated[int, Field(ge=0)]
StopText = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """None: as the folder says."""

    max_new_tokens: Length | None
    temperature: Temperature | None
    top_k: TopK | None
    top_p: TopP | None
    eos_token_id: Token | tuple[Token, ...] | None
    seed: Seed
    stop: tuple[Token | StopText, ...]
    cache_dtype: Literal["float32", "bfloat16", "float16"]

    @classmethod
    def of(cls, **given: Any) -> "Options":
        """Raises ValueError in one line for what is none."""
        return checked(cls, {key: _plain(value) for key, value in given.items()}, "[generate] ")

    @property
    def stop_tokens(self) -> set[int]:
        return {each for each in self.stop if isinstance(each, int)}

    @property
    def stop_strings(self) -> list[str]:
        return [each for each in self.stop if isinstance(each, str)]


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays, and what else holds several, as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        return [_plain(each) for each in value]
    return value
