"""Generation: prompts continued token by token, over caches that are what the architecture promises."""

from attnedit.generate.generate import Generation, Piece, generate, stream
from attnedit.generate.sampling import Sampling

__all__ = ["Generation", "Piece", "Sampling", "generate", "stream"]
