"""Rows on disk: what comes back is what was written, or an error that names the row."""

import errno
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from attnedit.activations.store import NOWHERE, Damaged, RowStore

SHAPE = (5, 3, 4)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
EVERY = np.arange(5)


def filled(path: Path, dtype: str = "float32") -> RowStore:
    store = RowStore(path, SHAPE, dtype, "text")  # type: ignore[arg-type]
    store.write(0, VALUES, 7)
    return store


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_come_back_in_any_order_and_from_another_process(tmp_path: Path, dtype: str) -> None:
    store = filled(tmp_path / "rows", dtype)
    expected = VALUES if dtype == "float32" else VALUES.astype(ml_dtypes.bfloat16).astype(np.float32)
    order = np.array([3, 0, 3, 4])
    np.testing.assert_array_equal(store.read(order), expected[order])
    np.testing.assert_array_equal(store.rounded(VALUES), expected)
    store.close()
    again = RowStore(tmp_path / "rows", SHAPE, dtype, "text")  # type: ignore[arg-type]
    assert again.levels.tolist() == [7] * 5
    np.testing.assert_array_equal(again.read(EVERY), expected)


def test_the_file_is_safetensors(tmp_path: Path) -> None:
    filled(tmp_path / "rows")
    np.testing.assert_array_equal(load_file(tmp_path / "rows")["rows"], VALUES)


@pytest.mark.parametrize("bit", [0, 13, 31])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "rows"
    store = filled(path)
    at = path.stat().st_size - VALUES[3:].nbytes + 8 + bit // 8  # in row 3
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit % 8]))
    np.testing.assert_array_equal(store.read(EVERY[:3]), VALUES[:3])
    with pytest.raises(Damaged, match="row 3 does not have its checksum") as raised:
        store.read(EVERY)
    assert raised.value.filename == str(path) and raised.value.row == 3


def test_a_row_that_a_kill_left_half_written_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    store, write, calls = filled(path), os.pwrite, []

    def killed(file: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) == 2:  # the stamp is gone, half of the numbers are there
            write(file, bytes(data)[: len(data) // 2], at)
            raise KeyboardInterrupt
        return write(file, data, at)

    monkeypatch.setattr(os, "pwrite", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(2, -VALUES[2:3], 8)
    monkeypatch.undo()
    again = RowStore(path, SHAPE, "float32", "text")
    assert again.levels.tolist() == [7, 7, NOWHERE, 7, 7]


@pytest.mark.parametrize("change", ["meaning", "dtype", "cut", "header"])
def test_another_file_is_made_anew(tmp_path: Path, change: str) -> None:
    path = tmp_path / "rows"
    filled(path).close()
    if change == "cut":
        os.truncate(path, path.stat().st_size - 1)
    if change == "header":
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    meaning, dtype = "other" if change == "meaning" else "text", "bfloat16" if change == "dtype" else "float32"
    store = RowStore(path, SHAPE, dtype, meaning)  # type: ignore[arg-type]
    assert store.levels.tolist() == [NOWHERE] * 5


def test_a_disk_without_room_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device for 4\d\d bytes of hidden states") as raised:
        RowStore(tmp_path / "rows", SHAPE, "float32", "text")
    assert raised.value.filename == str(tmp_path / "rows") and not list(tmp_path.iterdir())
