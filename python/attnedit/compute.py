"""What the numbers of products are multiplied as."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

COMPUTES = ("float32", "bfloat16")
_current: ContextVar[str] = ContextVar("compute", default="float32")


@contextmanager
def compute(dtype: str) -> Iterator[None]:
    """Inside, linear layers, experts, attention and the losses over the vocabulary multiply in `dtype`: float32 or
    bfloat16.

    With bfloat16 both factors of a product are rounded to it (relative 2^-9); sums, softmax, norms, losses and every
    stored number stay float32. The way back of an op multiplies as its way there did. `show_config` tells whether the
    processor has bfloat16 dot products; without them bfloat16 is slower than float32 and as inexact.

    It holds for this thread, as torch's autocast does: a thread that is started inside begins with float32, and says
    `with compute(...)` itself. An asyncio task takes over what held where it was made.
    """
    if dtype not in COMPUTES:
        raise ValueError(f"[compute] dtype must be one of {', '.join(COMPUTES)}, got {dtype!r}")
    token = _current.set(dtype)
    try:
        yield
    finally:
        _current.reset(token)


def current_compute() -> str:
    return _current.get()
