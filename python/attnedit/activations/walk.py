"""Layer by layer, with the pages of mapped weights given back behind each."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from attnedit import runtime
from attnedit.autograd import no_grad
from attnedit.checkpoint import announce, give_back
from attnedit.models import Decoder
from attnedit.models.decoder import Block
from attnedit.nn import Module
from attnedit.tensor import Array, Tensor

PASS_TOKENS = 4096  # what one pass holds the activations of
# Hidden states in flight at once: enough that reading the weights again for the next group costs nothing beside them.
GROUP_BYTES = 1 << 28


def layers(*models: Decoder, first: int = 0, end: int | None = None) -> Iterator[tuple[Block, ...]]:
    """The models' blocks, layer `first` of each, then the next. A block's turn ends where the next one's begins."""
    turns = list(zip(*(model.layers for model in models), strict=True))[first:end]
    for i, blocks in enumerate(turns):
        for module in turns[i + 1] if i + 1 < len(turns) else ():
            for array in mapped(module):
                announce(array)
        yield blocks
        give_back_all(*blocks)


def mapped(module: Module) -> list[Array]:
    return [parameter.lender for parameter in module.parameters() if parameter.lender is not None]


def give_back_all(*modules: Module | None) -> None:
    """Drops the pages of the modules' mapped weights, once what is queued has been computed."""
    runtime.synchronize()
    for module in modules:
        for array in [] if module is None else mapped(module):
            give_back(array)


def passes(tokens: Array) -> list[Array]:
    """Rows int32 [R, T] cut into batches of at most PASS_TOKENS, a row each at least."""
    rows = max(1, PASS_TOKENS // tokens.shape[1])
    return [np.ascontiguousarray(tokens[i : i + rows], dtype=np.int32) for i in range(0, len(tokens), rows)]


def grouped(batches: Sequence[Array], models: Sequence[Decoder]) -> Iterator[list[Array]]:
    """Neighbouring batches of tokens whose hidden states in all models fit into GROUP_BYTES; at least one."""
    bytes_per_token = 4 * sum(model.config.hidden_size for model in models)
    group: list[Array] = []
    for batch in batches:
        if group and (sum(b.size for b in group) + batch.size) * bytes_per_token > GROUP_BYTES:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def forward(
    models: Sequence[Decoder],
    batches: Sequence[Array],
    seconds: list[float] | None = None,
    starts: Sequence[Array | None] | None = None,
) -> list[list[Tensor]]:
    """Every model's hidden states [B, T, D] after the final norm, for every batch of tokens: the weights are read once.

    seconds, one number a model, gathers the time that each took; starts, one a batch, are document_starts. Nothing is
    recorded on the tape.
    """
    if len({model.config.num_hidden_layers for model in models}) > 1:
        clocks = [[0.0] for _ in models]
        alone = [forward([model], batches, clock, starts)[0] for model, clock in zip(models, clocks, strict=True)]
        for i, clock in enumerate(clocks if seconds is not None else []):
            seconds[i] += clock[0]  # type: ignore[index]
        return alone
    hidden: list[list[Tensor]] = [[] for _ in models]

    def turn(
        m: int, module: Callable[..., Tensor], inputs: Sequence[Any], starts: Sequence[Array | None] | None = None
    ) -> None:
        begun = time.perf_counter()
        for b, x in enumerate(inputs):
            hidden[m][b : b + 1] = [module(x) if starts is None else module(x, document_starts=starts[b])]
        runtime.synchronize()
        if seconds is not None:
            seconds[m] += time.perf_counter() - begun

    runtime.synchronize()
    with no_grad():
        for m, model in enumerate(models):
            turn(m, model.embed_tokens, batches)
        give_back_all(*(model.embed_tokens for model in models))
        for blocks in layers(*models):
            for m, block in enumerate(blocks):
                turn(m, block, hidden[m], starts)
        for m, model in enumerate(models):
            turn(m, model.norm, hidden[m])
    return hidden
