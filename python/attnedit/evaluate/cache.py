"""What the key-value cache costs, counted from each layer's arrays."""

from dataclasses import dataclass

from attnedit.models import DecoderConfig

CACHE_BYTES = 2  # bfloat16, as engines keep it


@dataclass(frozen=True)
class CacheSize:
    context: int
    bytes_at_context: int
    bytes_per_token: float  # at that context, windows included
    bytes_per_token_asymptotic: float  # what one more token costs in a long context: windows cost nothing there


def cache_size(config: DecoderConfig, context: int) -> CacheSize:
    """All layers' cache for one sequence of `context` tokens, in bfloat16."""
    total = config.kv_numbers(context) * CACHE_BYTES
    far = 1 << 40
    marginal = (config.kv_numbers(far + 1) - config.kv_numbers(far)) * CACHE_BYTES
    return CacheSize(context, total, total / context, marginal)
