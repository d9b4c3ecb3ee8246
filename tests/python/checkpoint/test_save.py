"""save_checkpoint: what it writes, and that it leaves nothing when it cannot."""

import errno
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from attnedit.checkpoint import Checkpoint, save_checkpoint
from attnedit.checkpoint.safetensors_file import DTYPES

TENSORS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("dcba")}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@settings(max_examples=60)
@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 2**32), st.booleans()), max_size=6
    ),
    st.integers(1, 2000),
)
def test_what_is_saved_is_opened_again(
    described: dict[str, tuple[str, tuple[int, ...], int, bool]], shard_bytes: int
) -> None:
    arrays = {}
    for name, (dtype, shape, seed, transposed) in described.items():
        array = np.random.default_rng(seed).integers(0, 2, shape).astype(DTYPES[dtype])
        arrays[name] = array.T if transposed else array
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        save_checkpoint(folder, {"a": [1, None, "é"]}, arrays, shard_bytes=shard_bytes)
        again = Checkpoint.open(folder)
        assert again.config == {"a": [1, None, "é"]} and again.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (again.dtype(name), again.shape(name)) == (array.dtype, array.shape)
            assert again.tensors[name].tobytes() == array.tobytes()
        assert files(Path(parent)) == ["model"]


def test_the_reference_reads_it_and_finds_its_mark(tmp_path: Path) -> None:
    tensors = {"w": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3), "s": np.ones((), np.float32)}
    save_checkpoint(tmp_path / "model", {}, tensors)
    assert files(tmp_path / "model") == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "model/model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("w").tobytes() == tensors["w"].tobytes()
        assert file.get_tensor("s").shape == ()


def test_shards_are_filled_in_the_given_order(tmp_path: Path) -> None:
    big = {"big": np.zeros(100, np.float32)}
    save_checkpoint(tmp_path / "model", {}, {**TENSORS, **big}, shard_bytes=48)
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    first, second, third = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert index["weight_map"] == {"d": first, "c": first, "b": second, "a": second, "big": third}
    assert list(index["weight_map"]) == ["d", "c", "b", "a", "big"]
    assert index["metadata"] == {"total_size": 4 * 24 + 400}
    assert files(tmp_path / "model") == ["config.json", first, second, third, "model.safetensors.index.json"]


def test_a_tensor_above_the_limit_has_a_shard_to_itself(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "one", {}, {"big": np.zeros(100)}, shard_bytes=8)
    assert files(tmp_path / "one") == ["config.json", "model.safetensors"]
    save_checkpoint(tmp_path / "two", {}, {"big": np.zeros(100), "small": np.zeros(1)}, shard_bytes=8)
    assert len(files(tmp_path / "two")) == 4


def test_everyone_may_read_the_files(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "model", {}, TENSORS)
    finally:
        os.umask(umask)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {0o644} and (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_files_are_copied_along(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "LICENSE").write_text("free")
    save_checkpoint(tmp_path / "model", {}, TENSORS, [tmp_path / "tokenizer.json", tmp_path / "LICENSE"])
    assert (tmp_path / "model/LICENSE").read_text() == "free" and (tmp_path / "model/tokenizer.json").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "x.safetensors", "model.safetensors.index.json"])
def test_files_do_not_replace_what_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="files must not hold"):
        save_checkpoint(tmp_path / "model", {}, TENSORS, [tmp_path / name])
    assert files(tmp_path) == [name]


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", {"old": 1}, TENSORS)
    (tmp_path / "model/extra").touch()
    with pytest.raises(FileExistsError, match="model exists already"):
        save_checkpoint(tmp_path / "model", {"new": 1}, TENSORS)
    opened = Checkpoint.open(tmp_path / "model")
    save_checkpoint(tmp_path / "model", {"new": 1}, {"d": opened.tensors["a"]}, overwrite=True)
    assert Checkpoint.open(tmp_path / "model").config == {"new": 1}
    assert files(tmp_path / "model") == ["config.json", "model.safetensors"] and files(tmp_path) == ["model"]
    assert (opened.tensors["a"] == 3).all()  # the map outlives its file


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_checkpoint(tmp_path / "model", {}, TENSORS)
    assert Checkpoint.open(tmp_path / "model").names()


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letters").touch()
    with pytest.raises(FileExistsError, match="is no checkpoint"):
        save_checkpoint(tmp_path / "home", {}, TENSORS, overwrite=True)
    assert files(tmp_path / "home") == ["letters"]


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"x": object()}, TENSORS, "JSON serializable"),
        ({}, {"w": np.array(["text"])}, "tensor 'w' must have a dtype of the format, got <U4"),
        ({}, {"w": np.zeros(2, np.longdouble)}, "tensor 'w' must have a dtype of the format"),
        ({}, {"__metadata__": np.zeros(2)}, "must have another name"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        save_checkpoint(tmp_path / "model", config, tensors)
    assert files(tmp_path) == []


def test_big_endian_numbers_keep_their_values(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", {}, {"w": np.arange(3, dtype=">f4")})
    assert Checkpoint.open(tmp_path / "model").tensors["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", ["fsync", "rename", "copyfile"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, existing: bool
) -> None:
    extra = tmp_path / "LICENSE"
    extra.touch()
    if existing:
        save_checkpoint(tmp_path / "model", {"old": 1}, TENSORS)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile" if failing == "copyfile" else f"os.{failing}", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path / "model", {"new": 1}, TENSORS, [extra], overwrite=existing)
    assert files(tmp_path) == (["LICENSE", "model"] if existing else ["LICENSE"])
    if existing:
        assert Checkpoint.open(tmp_path / "model").config == {"old": 1}


def test_a_failed_replacement_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "model", {"old": 1}, TENSORS)
    rename = os.rename

    def fails_for_the_new(source: Path, target: Path) -> None:
        if target == tmp_path / "model" and str(source).endswith(".partial"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fails_for_the_new)
        with pytest.raises(OSError):
            save_checkpoint(tmp_path / "model", {"new": 1}, TENSORS, overwrite=True)
    assert files(tmp_path) == ["model"] and Checkpoint.open(tmp_path / "model").config == {"old": 1}


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 200_000])
def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path, shard_bytes: int) -> None:
    """A limit on the size of files stands in for a full disk: the error comes from the same call."""

    def save() -> None:
        tensors = {"a": np.ones(30_000, np.float32), "w": np.ones(1_000_000, np.float32)}
        save_checkpoint(tmp_path / "model", {}, tensors, shard_bytes=shard_bytes)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError) as refused:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.errno == errno.EFBIG
    assert files(tmp_path) == []


KILLED = """
import os, signal, sys
import numpy as np
from attnedit.checkpoint import save_checkpoint

class Slow(dict):
    def items(self):
        yield "a", np.zeros(1000, np.float32)
        os.kill(os.getpid(), signal.SIGKILL)

save_checkpoint(sys.argv[1], {}, Slow(), shard_bytes=1)
"""


def test_what_a_killed_process_leaves_goes_at_the_next_call(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "model")], check=False, env=os.environ)
    left = files(tmp_path)
    assert len(left) == 1 and left[0].endswith(".partial"), left
    save_checkpoint(tmp_path / "model", {}, TENSORS)
    assert files(tmp_path) == ["model"]
