"""Rows of hidden states in a file: a safetensors file of the rows and, for each, where it stands and its CRC-32.

A row is written in place: its stamp goes first and comes back last, so that whatever a kill leaves is known for what it
is. A row whose checksum does not fit its stamp was changed by somebody else.
"""

import errno
import json
import math
import os
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

import ml_dtypes
import numpy as np

from attnedit.checkpoint.atomic import partial
from attnedit.tensor import Array

StateDtype: TypeAlias = Literal["float32", "bfloat16"]
NOWHERE = -1  # the level of a row that holds nothing
_NAMES = {"float32": "F32", "bfloat16": "BF16"}


class Damaged(OSError):
    """A row is not what was written there."""

    def __init__(self, path: Path, row: int) -> None:
        super().__init__(errno.EIO, f"row {row} does not have its checksum", str(path))
        self.row = row


class RowStore:
    """float32 rows of `shape` (R, T, D), kept as float32 or bfloat16; `levels` says what each holds, NOWHERE nothing.

    meaning: what the rows belong to. A file of another meaning, or one that is cut or unreadable, is made anew. Raises
    OSError where the disk has no room for it.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: StateDtype, meaning: str) -> None:
        self.path, self.shape = path, shape
        self._dtype = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
        self._row_bytes = math.prod(shape[1:]) * self._dtype.itemsize
        head = _header(shape, dtype, meaning)
        size = len(head) + shape[0] * (8 + self._row_bytes)
        self._stamps_at, self._rows_at = len(head), len(head) + 8 * shape[0]
        if not _begins_with(path, head, size):
            _make(path, head, size)
        self._file = os.open(path, os.O_RDWR)
        stamps = np.empty((shape[0], 2), np.uint32)
        _read(self._file, stamps, self._stamps_at)
        self._checksums, self.levels = stamps[:, 1].copy(), stamps[:, 0].astype(np.int64) - 1

    def close(self) -> None:
        os.close(self._file)

    def rounded(self, values: Array) -> Array:
        """What will be read again where values are written."""
        return values if self._dtype == np.float32 else values.astype(self._dtype).astype(np.float32)

    def write(self, first: int, values: Array, level: int) -> None:
        """Puts values [n, T, D] into rows first, first + 1, ... and stamps them with level."""
        for row, numbers in enumerate(values, first):
            stored = np.ascontiguousarray(numbers, self._dtype)
            self._stamp(row, NOWHERE, 0)
            _write(self._file, stored, self._rows_at + row * self._row_bytes, self.path)
            self._stamp(row, level, zlib.crc32(_bytes(stored), level))

    def read(self, rows: Array) -> Array:
        """The rows [n, T, D] of these numbers as float32. Raises Damaged for the first that is not as written."""
        values = np.empty((len(rows), *self.shape[1:]), np.float32)
        buffer = values if self._dtype == np.float32 else np.empty(values.shape[1:], self._dtype)
        for i, row in enumerate(rows):
            stored = values[i] if buffer is values else buffer
            _read(self._file, stored, self._rows_at + int(row) * self._row_bytes)
            level = int(self.levels[row])
            if level == NOWHERE or zlib.crc32(_bytes(stored), level) != self._checksums[row]:
                raise Damaged(self.path, int(row))
            if stored is buffer:
                values[i] = stored
        return values

    def forget(self, rows: Array) -> None:
        for row in rows:
            self._stamp(int(row), NOWHERE, 0)

    def _stamp(self, row: int, level: int, checksum: int) -> None:
        _write(self._file, np.array([level + 1, checksum], np.uint32), self._stamps_at + 8 * row, self.path)
        self.levels[row], self._checksums[row] = level, checksum


def _header(shape: tuple[int, int, int], dtype: StateDtype, meaning: str) -> bytes:
    """What a safetensors file of these rows begins with."""
    stamps = 8 * shape[0]
    rows = math.prod(shape) * (4 if dtype == "float32" else 2)
    header = {
        "__metadata__": {"meaning": meaning},
        "stamps": {"dtype": "U32", "shape": [shape[0], 2], "data_offsets": [0, stamps]},
        "rows": {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [stamps, stamps + rows]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _begins_with(path: Path, head: bytes, size: int) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _make(path: Path, head: bytes, size: int) -> None:
    """A file of empty stamps. Its blocks are taken at once: a disk that is too small says so here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # room for the new one
    with partial(path) as beside:
        with beside.open("wb") as file:
            try:
                file.write(head)
                file.flush()
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:  # it does not know the file's name
                raise OSError(error.errno, f"{error.strerror} for {size:,} bytes of hidden states", str(path)) from None
        os.replace(beside, path)


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _read(file: int, array: Array, at: int) -> None:
    rest = _bytes(array)
    while rest:
        count = os.preadv(file, [rest], at)
        if count == 0:  # somebody cut the file: the checksum will not fit
            rest[:] = bytes(len(rest))
            return
        rest, at = rest[count:], at + count


def _write(file: int, array: Array, at: int, path: Path) -> None:
    rest = _bytes(array)
    try:
        while rest:
            count = os.pwrite(file, rest, at)
            rest, at = rest[count:], at + count
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for hidden states", str(path)) from None
