"""Models: the decoder, and one file per family, named after its model_type, that reads config.json and tensor names."""

from attnedit.models.cache import CACHE_DTYPES, Cache, decode, prefill
from attnedit.models.decoder import Decoder, DecoderConfig
from attnedit.models.load import known_model_types, load

__all__ = ["CACHE_DTYPES", "Cache", "Decoder", "DecoderConfig", "decode", "known_model_types", "load", "prefill"]
