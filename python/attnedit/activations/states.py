"""The teacher's hidden state before one layer, and its attention output there, for all rows: two files on disk.

What a kill, a full disk or a flipped bit leaves is brought where it belongs pass by pass: a pass that stands before
layer 7 goes on from there, one that is damaged or empty begins again at its tokens.
"""

import errno
import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np

from attnedit.activations.store import NOWHERE, Damaged, RowStore, StateDtype
from attnedit.activations.walk import layers, pass_rows
from attnedit.autograd import no_grad
from attnedit.compute import current_compute
from attnedit.models import Decoder
from attnedit.models.decoder import Block
from attnedit.models.pages import give_back_all
from attnedit.tensor import Array, Tensor, tensor


class States:
    """Hidden states of rows int32 [R, T]. The same call on a folder that has some of them continues with those; without
    a folder they lie in a temporary one.

    starts, like tokens: where each token's document begins, if a row holds several (ops.attention).
    With dtype bfloat16 the teacher's stream is rounded where it is stored: behind every layer and every attention.
    """

    def __init__(
        self,
        teacher: Decoder,
        tokens: Array,
        folder: Path | None,
        dtype: StateDtype = "float32",
        starts: Array | None = None,
    ) -> None:
        self.teacher, self.tokens, self.layer, self._starts = teacher, tokens, 0, starts
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="attnedit-")  # gone when this object is
            folder = Path(self._temporary.name)
        self._folder = folder
        self._dtype: StateDtype = dtype
        self.shape = (tokens.shape[0], tokens.shape[1], teacher.config.hidden_size)
        per_pass = pass_rows(tokens.shape[1])
        self.passes = [np.arange(i, min(i + per_pass, len(tokens))) for i in range(0, len(tokens), per_pass)]
        digest = hashlib.sha256(np.ascontiguousarray(tokens).tobytes())
        if starts is not None:
            digest.update(np.ascontiguousarray(starts).tobytes())
        digest.update(f"{tokens.shape} {teacher.config} {current_compute()}".encode())
        self._meaning = digest.hexdigest()
        self._hidden = self._store("hidden")
        self._targets: RowStore | None = None
        self._recomputed: set[tuple[str, int, int]] = set()

    def _store(self, name: str) -> RowStore:
        return RowStore(self._folder / f"{name}.safetensors", self.shape, self._dtype, self._meaning)

    def remove(self) -> None:
        """Takes the folder away: nobody needs it any more."""
        for store in (self._hidden, self._targets):
            if store is not None:
                store.close()
                store.path.unlink()
        shutil.rmtree(self._folder)

    def advance(self, layer: int) -> None:
        """Brings every row before `layer` (num_hidden_layers: behind the last), from where it stands."""
        self.layer = layer
        while any(self._level(self._hidden, rows) != layer for rows in self.passes):
            self._sweep(layer)

    def attend(self) -> None:
        """Makes the layer's attention output of every row."""
        self._targets = self._targets or self._store("target")
        block = self.teacher.layers[self.layer]
        for rows in self.passes:
            if self._level(self._targets, rows) != self.layer:
                output = self._attention(block, tensor(self.hidden(rows)), rows).numpy()
                self._targets.write(int(rows[0]), output, self.layer)
        give_back_all(block)

    def starts(self, rows: Array) -> Array | None:
        """The document_starts of these rows."""
        return None if self._starts is None else np.ascontiguousarray(self._starts[rows])

    def hidden(self, rows: Array) -> Array:
        """float32 [n, T, D] before the layer."""
        while True:
            try:
                return self._hidden.read(rows)
            except Damaged as damage:
                self._forget(self._hidden, damage)
                self.advance(self.layer)

    def target(self, rows: Array) -> Array:
        """float32 [n, T, D], what the layer's attention gives, after `attend`."""
        assert self._targets is not None
        while True:
            try:
                return self._targets.read(rows)
            except Damaged as damage:
                self._forget(self._targets, damage)
                self.attend()

    def _sweep(self, layer: int) -> None:
        """One walk over the layers; passes found damaged on the way are left for the next one."""
        levels = [self._level(self._hidden, rows) for rows in self.passes]
        for i, rows in enumerate(self.passes):
            if levels[i] == NOWHERE or levels[i] > layer:
                with no_grad():
                    embedded = self.teacher.embed_tokens(np.ascontiguousarray(self.tokens[rows]))
                self._hidden.write(int(rows[0]), embedded.numpy(), 0)
                levels[i] = 0
        give_back_all(self.teacher.embed_tokens)
        first = min(levels)
        for at, (block,) in enumerate(layers(self.teacher, first=first, end=layer), first):
            for i, rows in enumerate(self.passes):
                if levels[i] == at and self._step(block, rows, at):
                    levels[i] = at + 1

    def _step(self, block: Block, rows: Array, at: int) -> bool:
        """Moves a pass behind layer `at`; False where its hidden states turn out to be damaged."""
        try:
            h = tensor(self._hidden.read(rows))
        except Damaged as damage:
            self._forget(self._hidden, damage)
            return False
        with no_grad():
            output = self._known_target(rows, at)
            if output is None:
                output = self._hidden.rounded(self._attention(block, h, rows).numpy())
            after = block.after_attention(h, tensor(output)).numpy()
        self._hidden.write(int(rows[0]), after, at + 1)
        return True

    def _known_target(self, rows: Array, at: int) -> Array | None:
        if self._targets is None or self._level(self._targets, rows) != at:
            return None
        try:
            return self._targets.read(rows)
        except Damaged as damage:
            self._forget(self._targets, damage)
            return None

    def _attention(self, block: Block, h: Tensor, rows: Array) -> Tensor:
        with no_grad():
            return block.attention(h, document_starts=self.starts(rows))

    @staticmethod
    def _level(store: RowStore, rows: Array) -> int:
        """Where all of a pass stand, or NOWHERE: rows that a kill set apart are computed together again."""
        levels = store.levels[rows]
        return int(levels[0]) if (levels == levels[0]).all() else NOWHERE

    def _forget(self, store: RowStore, damage: Damaged) -> None:
        """Empties the damaged row's pass. A row that is damaged twice lies on a disk that keeps nothing."""
        key = (store.path.name, damage.row, int(store.levels[damage.row]))
        if key in self._recomputed:
            raise OSError(errno.EIO, f"{damage.strerror} although it was written again", damage.filename)
        self._recomputed.add(key)
        warnings.warn(f"{damage.filename}: {damage.strerror}; it is computed again", stacklevel=2)
        store.forget(next(rows for rows in self.passes if damage.row in rows))
