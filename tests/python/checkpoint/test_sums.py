"""SHA256SUMS of an exported folder: what is not as written is found, and people may still write into their files."""

import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit.checkpoint import compare_sums, write_sums


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return ae.export(random_decoder(tiny_config()), tmp_path / "student")


def flip(path: Path, bit: int) -> None:
    flipped = bytearray(path.read_bytes())
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)


def told(folder: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        compare_sums(folder)
    return [str(warning.message) for warning in found]


def test_sums_from_outside_are_not_read(exported: Path) -> None:
    (exported / "SHA256SUMS").rename(exported.parent / "mine")
    (exported / "SHA256SUMS").symlink_to("../mine")
    with pytest.raises(ValueError, match=r"SHA256SUMS must lie in its folder, it is a link to .*mine$"):
        ae.load(exported)


def test_an_export_is_as_its_sums_say(exported: Path) -> None:
    assert told(exported) == []
    noted = {line[66:] for line in (exported / "SHA256SUMS").read_text().splitlines()}
    assert noted == {path.name for path in exported.iterdir()} - {"SHA256SUMS"} and "model.safetensors" in noted
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is absent: the system's own reader of SHA256SUMS")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=exported, check=True)


def test_a_flipped_bit_of_the_weights_is_refused_where_they_are_loaded(exported: Path) -> None:
    path = exported / "model.safetensors"
    flip(path, 8 * (path.stat().st_size - 3))  # the last digits of a number: still finite, and a little different
    with pytest.raises(ValueError, match=rf"{path} is not what SHA256SUMS notes: one of the two is damaged"):
        ae.load(exported)
    flip(path, 8 * (path.stat().st_size - 3))
    ae.load(exported)


def test_what_is_missing_is_named(exported: Path) -> None:
    (exported / "LICENSE").write_text("x")
    write_sums(exported)
    (exported / "LICENSE").unlink()
    assert told(exported) == [f"{exported / 'LICENSE'} is missing, SHA256SUMS notes it"]
    with pytest.raises(FileNotFoundError, match="LICENSE is missing"):
        compare_sums(exported, whole=True)
    path = exported / "model.safetensors"
    path.unlink()
    with pytest.warns(UserWarning), pytest.raises(FileNotFoundError, match=f"{path} is missing, SHA256SUMS notes it"):
        ae.load(exported)
    path.mkdir()
    with pytest.warns(UserWarning), pytest.raises(FileNotFoundError, match=f"{path} must be a file, SHA256SUMS"):
        ae.load(exported)


def test_a_file_that_people_edit_is_told_and_taken_as_it_is(exported: Path) -> None:
    path = exported / "generation_config.json"
    path.write_text('{"temperature": 0.5}')
    with pytest.warns(UserWarning, match=rf"{path} is not .*: it is damaged, or was changed by hand"):
        assert ae.load(exported).config.generation == {"temperature": 0.5}
    (exported / "SHA256SUMS").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ae.load(exported)


def test_no_bit_of_the_sums_is_lost_in_silence(exported: Path) -> None:
    path = exported / "SHA256SUMS"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        flip(path, bit)
        try:
            silent = not told(exported)
        except (OSError, ValueError) as error:
            silent = False
            assert "model.safetensors is not what" in str(error) or ".safetensors is missing, SHA" in str(error)
        assert not silent or path.read_bytes().replace(b"\v", b"\n") == whole, bit  # another end of a line
        flip(path, bit)


def test_sums_of_elsewhere_are_not_followed(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (exported / "link").symlink_to(tmp_path / "secret")
    zeros = "0" * 64
    (exported / "SHA256SUMS").write_text(f"{zeros}  ../secret\n{zeros}  sub/model.safetensors\n{zeros}\n\n")
    assert len(told(exported)) == 4
    (exported / "SHA256SUMS").write_text(f"{zeros}  link\n")
    with pytest.raises(ValueError, match="must lie in its folder"):
        compare_sums(exported)


def test_a_folder_without_sums_passes(tmp_path: Path) -> None:
    assert told(tmp_path) == [] and told(tmp_path / "absent") == []
    (tmp_path / "a").write_text("x")
    write_sums(tmp_path)
    assert told(tmp_path) == []
