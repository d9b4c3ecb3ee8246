"""Training rows of a corpus that is tokenised while it is trained on, a shard at a time, mixed by weight.

Row p is the p-th that is trained on, epoch after epoch. It is a function of the corpus, the seed and p alone, however
fast the tokenising is, and found without reading what comes before: arithmetic leads to the source, its shard and the
row there, which lie in mapped files.
"""

import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnedit.data.rows import Array, shuffled, starts_within

CYCLE = 1000  # rows in which every source has its share


@dataclass(frozen=True)
class Shard:
    """Some documents of a source, end to end."""

    tokens: Array  # uint16 or uint32 [N]
    begins: Array  # int64 [D], where documents begin


# Shard 0, 1, ... of a source; None behind the last. Called in order, from another thread.
MakeShard = Callable[[int], Shard | None]


class StreamedRows:
    """Rows of `sequence_length`, in the order of training: rows are mixed within a shard, not beyond it.

    sources: how each makes its shards, and its weight. While one shard is trained on, the next one is made.
    """

    def __init__(self, sources: Sequence[tuple[MakeShard, float]], sequence_length: int, seed: int) -> None:
        self.sequence_length = sequence_length
        self._workers = ThreadPoolExecutor(1, "tokenise")
        self._sources = [
            _Source(make, sequence_length, seed + (i << 32), self._workers) for i, (make, _) in enumerate(sources)
        ]
        # Which source each row of a cycle is from, and how many rows of that source come before it there.
        self._counts = shares([weight for _, weight in sources], 1 if len(sources) == 1 else CYCLE)
        order = np.repeat(np.arange(len(sources)), self._counts)
        self._cycle = order[shuffled(len(order), seed)]
        self._before = np.zeros(len(order), np.int64)
        for i in range(len(sources)):
            self._before[self._cycle == i] = np.arange(self._counts[i])

    def available(self, count: int) -> int:
        """How many different rows there are, but at most `count`: no more is tokenised than is needed to tell."""
        cycles = -(-count // len(self._cycle))
        each = zip(self._sources, self._counts, strict=True)
        return min(count, sum(source.available(cycles * int(share)) for source, share in each))

    def __getitem__(self, index: Any) -> Array:
        """int32 [..., sequence_length] of a row, a slice or an array of rows."""
        return self._gather(index, _Source.tokens)

    def document_starts(self, index: Any) -> Array:
        """int32 like the tokens: where in its row each token's document begins."""
        return self._gather(index, _Source.starts)

    def _gather(self, index: Any, read: Callable[["_Source", int], Array]) -> Array:
        if isinstance(index, slice):
            index = np.arange(index.start or 0, index.stop, index.step or 1)
        numbers = np.asarray(index)
        gathered = np.empty((numbers.size, self.sequence_length), np.int32)
        for place, number in zip(gathered, numbers.reshape(-1), strict=True):
            cycle, slot = divmod(int(number), len(self._cycle))
            source = self._cycle[slot]
            place[...] = read(self._sources[source], cycle * int(self._counts[source]) + int(self._before[slot]))
        return gathered.reshape(*numbers.shape, self.sequence_length)

    def close(self) -> None:
        """Ends the making of shards; whoever makes one is told to stop by its own means."""
        self._workers.shutdown(cancel_futures=True)


class _Source:
    """The rows of one source, by their number among its own."""

    def __init__(self, make: MakeShard, sequence_length: int, seed: int, workers: ThreadPoolExecutor) -> None:
        self._make, self._length, self._seed, self._workers = make, sequence_length, seed, workers
        self._shards: list[Shard] = []
        self._ends: list[int] = []  # rows up to the end of each shard
        self._complete = False
        self._next: Future[Shard | None] | None = None
        self._order: tuple[tuple[int, int], Array] | None = None

    def available(self, count: int) -> int:
        while not self._complete and (self._ends[-1] if self._ends else 0) < count:
            self._extend()
        return min(count, self._ends[-1] if self._ends else 0)

    def tokens(self, number: int) -> Array:
        shard, row = self._find(number)
        return shard.tokens[row * self._length : (row + 1) * self._length]

    def starts(self, number: int) -> Array:
        shard, row = self._find(number)
        return starts_within(shard.begins, row * self._length, self._length)

    def _find(self, number: int) -> tuple[Shard, int]:
        """The shard and the row there."""
        epoch = 0
        if self.available(number + 1) <= number:  # another time through the whole source
            if not self._ends or self._ends[-1] == 0:
                raise ValueError(f"[data] one row of {self._length} training tokens is needed, the text has fewer")
            epoch, number = divmod(number, self._ends[-1])
        shard = bisect.bisect_right(self._ends, number)
        first = self._ends[shard - 1] if shard else 0
        return self._shards[shard], int(self._permutation(epoch, shard, self._ends[shard] - first)[number - first])

    def _permutation(self, epoch: int, shard: int, rows: int) -> Array:
        if self._order is None or self._order[0] != (epoch, shard):
            self._order = (epoch, shard), shuffled(rows, self._seed, epoch, shard)
        return self._order[1]

    def _extend(self) -> None:
        """Takes the next shard in, and has the one behind it made."""
        waiting = self._next or self._workers.submit(self._make, len(self._shards))
        self._next = None
        shard = waiting.result()
        if shard is None:
            self._complete = True
            return
        self._shards.append(shard)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(shard.tokens) // self._length)
        self._next = self._workers.submit(self._make, len(self._shards))


def shares(weights: Sequence[float], total: int) -> Array:
    """Whole numbers in proportion to the weights, each at least 1, by the largest remainders: int64, with this sum."""
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    counts = np.maximum(1, np.floor(exact)).astype(np.int64)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        order = step * (exact - counts)
        order[counts + step < 1] = -np.inf
        counts[np.argmax(order)] += step
    return counts
