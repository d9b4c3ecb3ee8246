"""format attnedit: our own folder, every layer's attention written out; holds every student exactly."""

from attnedit.models import DecoderConfig
from attnedit.models.attnedit import raw_config, tensor_name

__all__ = ["raw_config", "refuse", "tensor_name"]


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return None
