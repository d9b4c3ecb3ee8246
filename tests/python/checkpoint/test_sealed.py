"""What a run keeps as JSON: as written, or named as damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from attnedit.checkpoint import read_arrays, read_sealed, write_arrays, write_sealed

VALUES = {
    "layer": 3, "rate": 1.5e-05, "kept": True, "none": None, "shape": [1, 2.25], "text": "größer\n", "in": {"a": []},
}  # fmt: skip


def test_values_come_back_and_others_read_them_too(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_sealed(path, VALUES)
    assert read_sealed(path) == VALUES
    assert json.loads(path.read_text()).keys() == {*VALUES, "crc32"}
    path.write_text(json.dumps(json.loads(path.read_text())))  # another layout says the same
    assert read_sealed(path) == VALUES


def test_every_bit_that_says_something_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_sealed(path, VALUES)
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read_sealed(path) == VALUES, bit  # a blank became a tab: it says the same
        except ValueError as error:
            assert str(path) in str(error) and "to have it made again" in str(error)
            refused += 1
    assert refused > 7 * len(whole)


@pytest.mark.parametrize("text", ["", "{}", '{"layer": 3}', '{"layer": 3, "crc32": 0}', '{"layer": 3'])
def test_what_has_no_checksum_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"result\.json.* damaged"):
        read_sealed(path)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text", "header", "folder", "link to a folder", "absent"])
def test_what_can_be_made_again_is_told_so(tmp_path: Path, kind: str, damage: str) -> None:
    path = tmp_path / f"kept.{kind}"
    if kind == "json":
        write_sealed(path, VALUES)
    else:
        write_arrays(path, {"a": np.arange(99.0)})
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link to a folder":
        path.symlink_to(tmp_path)
    elif damage != "absent":
        path.write_bytes({"empty": b"", "cut": whole[:-9], "text": b"something", "header": b"\xff" * 8}[damage])
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        (read_sealed if kind == "json" else read_arrays)(path)
    said = str(caught.value)
    assert str(path) in said and ("is damaged; remove it to have it made again" in said) == (damage != "absent")
