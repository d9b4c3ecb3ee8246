"""What a layer keeps of earlier tokens, and where the tokens of a forward pass stand among them."""

import numpy as np
import numpy.typing as npt

from attnedit import ops
from attnedit.nn.rope import Rope
from attnedit.tensor import Array, Tensor, empty, tensor


class Positions:
    """Where the tokens of a forward pass stand; the caches of all layers share one.

    Either they are one sequence's prompt, tokens [1, T] from position 0 on, or the newest token of each of B sequences,
    side by side as [1, B], so that everything but attention treats them as neighbours.
    """

    def __init__(self, sequences: int, length: int) -> None:
        self.sequences = sequences
        self.length = length  # of the longest sequence that there is room for
        self.prompt(0, 0)

    def prompt(self, sequence: int, tokens: int) -> None:
        """The pass is this sequence's first `tokens` tokens."""
        self.decoding, self.rows, self.tokens = False, slice(sequence, sequence + 1), tokens
        self.first = np.zeros(1, np.int32)

    def newest(self, at: Array) -> None:
        """The pass is a token of every sequence, at these positions, int32 [B]; -1 for a sequence that has ended."""
        self.decoding, self.rows, self.tokens = True, slice(0, self.sequences), 1
        self.first = at
        self._tables: dict[Rope, tuple[Tensor, Tensor]] = {}

    def tables(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """cos and sin, a row for each token of the pass."""
        if not self.decoding:
            return rope.tables(self.tokens)
        if rope not in self._tables:
            at = np.maximum(self.first, 0)
            cos, sin = (tensor(table.array[at]) for table in rope.tables(self.length))
            self._tables[rope] = cos, sin
        return self._tables[rope]


class LayerCache:
    """Arrays [B, slots, width]. Position p lies in slot p % slots: fewer slots than tokens are a ring, a window's."""

    def __init__(self, positions: Positions, slots: int, widths: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.positions = positions
        self.slots = slots
        self.arrays = [empty((positions.sequences, slots, width), dtype) for width in widths]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @property
    def decoding(self) -> bool:
        """Whether the pass is the newest tokens, which see what is cached; a prompt sees itself alone."""
        return self.positions.decoding

    @property
    def filled(self) -> Array:
        """Slots in use by each sequence, int32 [B], the newest tokens' own included; 0 where it has ended."""
        return np.minimum(self.positions.first + 1, self.slots, dtype=np.int32)

    def tables(self, rope: Rope) -> tuple[Tensor, Tensor]:
        return self.positions.tables(rope)

    def store(self, x: Tensor, array: int = 0, offset: int = 0) -> None:
        """Keeps x, [1, T or B, width], in the columns from offset on."""
        ops.cache_store(x, self.arrays[array].array[self.positions.rows], self.positions.first, offset)
