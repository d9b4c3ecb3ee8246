"""Layer by layer, with the pages of mapped weights given back behind each."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from attnedit import runtime
from attnedit.autograd import no_grad
from attnedit.checkpoint import announce
from attnedit.models import Decoder
from attnedit.models.decoder import Block
from attnedit.models.pages import give_back_all, mapped
from attnedit.tensor import Array, Tensor

PASS_TOKENS = 4096  # what one pass holds the activations of
# Hidden states in flight at once: enough that reading the weights again for the next group costs nothing beside them.
GROUP_BYTES = 1 << 28


def layers(*models: Decoder, first: int = 0, end: int | None = None) -> Iterator[tuple[Block, ...]]:
    """The models' blocks, layer `first` of each, then the next. A block's turn ends where the next one's begins."""
    turns = list(zip(*(model.layers for model in models), strict=True))[first:end]
    for i, blocks in enumerate(turns):
        for array in mapped(*(turns[i + 1] if i + 1 < len(turns) else ())):
            announce(array)
        yield blocks
        give_back_all(*blocks)


def pass_rows(length: int) -> int:
    """How many rows of this length a pass takes: PASS_TOKENS at most, a row at least."""
    return max(1, PASS_TOKENS // length)


def passes(tokens: Array) -> list[Array]:
    """Rows int32 [R, T] cut into batches, a pass each."""
    rows = pass_rows(tokens.shape[1])
    return [np.ascontiguousarray(tokens[i : i + rows], dtype=np.int32) for i in range(0, len(tokens), rows)]


def grouped(sizes: Sequence[int], models: Sequence[Decoder]) -> Iterator[slice]:
    """Which neighbouring batches of so many tokens have hidden states in all models that fit into GROUP_BYTES; at least
    one."""
    most_tokens = GROUP_BYTES // (4 * sum(model.config.hidden_size for model in models))
    first = tokens = 0
    for i, size in enumerate(sizes):
        if i > first and tokens + size > most_tokens:
            yield slice(first, i)
            first, tokens = i, 0
        tokens += size
    if first < len(sizes):
        yield slice(first, len(sizes))


def forward(
    models: Sequence[Decoder],
    batches: Sequence[Array],
    seconds: list[float] | None = None,
    starts: Sequence[Array | None] | None = None,
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> list[list[Tensor]]:
    """Every model's hidden states [B, T, D] after the final norm, for every batch of tokens: the weights are read once.

    seconds, one number a model, gathers the time that each took; starts, one a batch, are document_starts; on_layer
    follows it. Nothing is recorded on the tape.
    """
    seconds = [0.0] * len(models) if seconds is None else seconds
    if len({model.config.num_hidden_layers for model in models}) > 1:
        clocks = [[0.0] for _ in models]
        alone = [forward([model], batches, clock, starts)[0] for model, clock in zip(models, clocks, strict=True)]
        seconds[:] = [before + clock[0] for before, clock in zip(seconds, clocks, strict=True)]
        return alone
    hidden: list[list[Tensor]] = [[] for _ in models]

    def turn(
        m: int, module: Callable[..., Tensor], inputs: Sequence[Any], starts: Sequence[Array | None] | None = None
    ) -> None:
        begun = time.perf_counter()
        for b, x in enumerate(inputs):
            hidden[m][b : b + 1] = [module(x) if starts is None else module(x, document_starts=starts[b])]
        runtime.synchronize()
        seconds[m] += time.perf_counter() - begun

    runtime.synchronize()
    with no_grad():
        for m, model in enumerate(models):
            turn(m, model.embed_tokens, batches)
        give_back_all(*(model.embed_tokens for model in models))
        for i, blocks in enumerate(layers(*models)):
            for m, block in enumerate(blocks):
                turn(m, block, hidden[m], starts)
            on_layer(i + 1, len(models[0].layers))
        for m, model in enumerate(models):
            turn(m, model.norm, hidden[m])
    return hidden
