"""Checkpoint.open: what it finds in a folder, and which folders it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attnedit.checkpoint import Checkpoint, save_checkpoint

CONFIG = {"model_type": "qwen3", "hidden_size": 4}
TENSORS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcd")}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", CONFIG, TENSORS)
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """a, b | c, d"""
    save_checkpoint(tmp_path / "model", CONFIG, TENSORS, shard_bytes=48)
    return tmp_path / "model"


SECOND = "model-00002-of-00002.safetensors"


def refused(folder: Path, kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as error:
        Checkpoint.open(folder)
    said = str(error.value)
    assert all(part in said for part in parts) and "\n" not in said, said


@pytest.mark.parametrize("form", ["single", "sharded"])
def test_names_shapes_and_numbers(form: str, request: pytest.FixtureRequest) -> None:
    checkpoint = Checkpoint.open(str(request.getfixturevalue(form)))
    assert checkpoint.config == CONFIG
    assert checkpoint.names() == list("abcd") and len(checkpoint.tensors) == 4
    assert checkpoint.shape("c") == (2, 3) and checkpoint.dtype("c") == np.float32
    assert all((checkpoint.tensors[name] == array).all() for name, array in TENSORS.items())
    assert "x" not in checkpoint.tensors and checkpoint.tensors.get("x") is None
    with pytest.raises(KeyError):
        checkpoint.tensors["x"]


def test_other_files_and_the_licence(single: Path) -> None:
    for name in ("tokenizer.json", "LICENSE", "NOTICE.txt", "pytorch_model.bin", "model.gguf", ".hidden"):
        (single / name).write_text("{}")
    checkpoint = Checkpoint.open(single)
    assert [path.name for path in checkpoint.other_files()] == ["LICENSE", "NOTICE.txt", "tokenizer.json"]
    assert [path.name for path in checkpoint.licence_files()] == ["LICENSE", "NOTICE.txt"]


def test_the_fingerprint_follows_the_contents(single: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(single).fingerprint()
    save_checkpoint(tmp_path / "same", CONFIG, TENSORS)
    assert Checkpoint.open(tmp_path / "same").fingerprint() == before
    (single / "README.md").write_text("no weights")
    assert Checkpoint.open(single).fingerprint() == before
    content = bytearray((single / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (single / "model.safetensors").write_bytes(content)
    after = Checkpoint.open(single).fingerprint()
    assert after != before
    (single / "config.json").write_text("{}")
    assert Checkpoint.open(single).fingerprint() not in (before, after)


def test_the_fingerprint_covers_every_shard(sharded: Path) -> None:
    before = Checkpoint.open(sharded).fingerprint()
    save_file(TENSORS | {"c": TENSORS["d"]}, sharded / "other")
    save_file({"c": TENSORS["d"], "d": TENSORS["d"]}, sharded / SECOND)
    assert Checkpoint.open(sharded).fingerprint() != before


def test_a_folder_is_asked_for(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", OSError, "nowhere must be a folder, got nothing")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", OSError, "file must be a folder, got a file")


def test_config_json_is_asked_for(single: Path) -> None:
    for text, message in (
        ("[1]", "must be a JSON object, got list"),
        ("{", "must be JSON"),
        ('{"a":1,"a":2}', "twice"),
    ):
        (single / "config.json").write_text(text)
        refused(single, ValueError, "config.json", message)
    (single / "config.json").unlink()
    refused(single, OSError, "config.json is missing")
    (single / "config.json").mkdir()
    refused(single, OSError, "config.json must be a file")


def test_weights_are_asked_for(single: Path) -> None:
    (single / "model.safetensors").rename(single / "adapter.safetensors")
    refused(single, OSError, "must hold model.safetensors or model.safetensors.index.json", "only adapter.safetensors")
    (single / "adapter.safetensors").unlink()
    refused(single, OSError, "must hold model.safetensors or model.safetensors.index.json, there is neither")
    (single / "model.safetensors").symlink_to("nothing")
    refused(single, OSError, "model.safetensors is missing")


def test_pickles_are_never_opened(single: Path) -> None:
    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/opened'\ntR.")
    refused(single, ValueError, "pytorch_model.bin", "pickles are never opened", "safetensors")


def test_a_truncated_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).write_bytes((sharded / SECOND).read_bytes()[:-1])
    refused(sharded, ValueError, SECOND, "is truncated", "'d'")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    refused(sharded, OSError, SECOND, "is missing", "'c'")


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    save_file({"c": TENSORS["c"]}, sharded / SECOND)
    refused(sharded, ValueError, SECOND, "tensor 'd' is missing")


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    save_file({name: TENSORS[name] for name in "acd"}, sharded / SECOND)
    refused(sharded, ValueError, "tensor 'a' is both in model-00001-of-00002.safetensors and in " + SECOND)


def with_map(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize(
    "shard",
    ["../out.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "", "x.bin", "a\\b.safetensors", 3, None,
     "\0.safetensors", "../model/model-00002-of-00002.safetensors"],
)  # fmt: skip
def test_an_index_names_files_of_its_folder_only(sharded: Path, shard: object) -> None:
    save_file(TENSORS, sharded.parent / "out.safetensors")
    with_map(sharded, {"a": shard})
    refused(sharded, ValueError, "index.json", "tensor 'a' must lie in a .safetensors file of this folder")


def test_a_tensor_that_the_index_leaves_out_is_read_from_its_shard(sharded: Path) -> None:
    with_map(sharded, {"a": "model-00001-of-00002.safetensors", "c": SECOND})
    checkpoint = Checkpoint.open(sharded)
    assert sorted(checkpoint.names()) == list("abcd")
    assert all((checkpoint.tensors[name] == array).all() for name, array in TENSORS.items())


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map_is_refused(sharded: Path, weight_map: object) -> None:
    with_map(sharded, weight_map)
    refused(sharded, ValueError, "index.json", "weight_map must map tensors to files")


def test_an_index_that_names_a_tensor_twice_is_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}')
    refused(sharded, ValueError, "index.json", "names 'a' twice")


def test_a_link_out_of_the_folder_is_refused(sharded: Path) -> None:
    outside = sharded.parent / "outside.safetensors"
    (sharded / SECOND).rename(outside)
    (sharded / SECOND).symlink_to(outside)
    refused(sharded, ValueError, SECOND, "must lie in its folder", str(outside))
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to(SECOND)
    refused(sharded, OSError, SECOND)


def test_links_within_the_hugging_face_cache_are_followed(sharded: Path) -> None:
    """There, every file of snapshots/<revision> is a link to ../../blobs/<hash>."""
    snapshot = sharded.parent / "cache/snapshots/0123"
    blobs = sharded.parent / "cache/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / str(i))
        (snapshot / path.name).symlink_to(os.path.relpath(blobs / str(i), snapshot))
    assert Checkpoint.open(snapshot).names() == list("abcd")


def test_a_single_file_goes_before_an_index(single: Path) -> None:
    """As in transformers."""
    with_map(single, {"a": "gone.safetensors"})
    assert Checkpoint.open(single).names() == list("abcd")


def test_a_real_checkpoint(material: Path) -> None:
    checkpoint = Checkpoint.open(material / "models/stories260K")
    theirs = load_file(material / "models/stories260K/model.safetensors")
    assert checkpoint.config["model_type"] == "llama" and set(checkpoint.names()) == theirs.keys()
    assert sum(array.size for array in checkpoint.tensors.values()) == 260_032
    for name, array in theirs.items():
        assert checkpoint.tensors[name].tobytes() == array.tobytes()


def test_an_index_that_is_a_link_out_of_the_folder_is_refused(sharded: Path) -> None:
    index = "model.safetensors.index.json"
    (sharded / index).rename(sharded.parent / index)
    (sharded / index).symlink_to(sharded.parent / index)
    refused(sharded, ValueError, f"{index} must lie in its folder, it is a link to {sharded.parent / index}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(single: Path, name: str) -> None:
    outside = single.parent / name
    (single / name).rename(outside)
    (single / name).symlink_to(outside)
    refused(single, ValueError, f"{name} must lie in its folder, it is a link to {outside}")


def test_a_link_to_the_hugging_face_cache_is_followed(single: Path) -> None:
    snapshot = single.parent / "cache/snapshots/0123"
    (single.parent / "cache/blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in sorted(single.iterdir()):
        path.rename(single.parent / "cache/blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    (single.parent / "named").symlink_to(snapshot)
    assert Checkpoint.open(single.parent / "named").names() == list("abcd")


def test_a_config_of_gigabytes_is_refused(single: Path) -> None:
    with (single / "config.json").open("r+b") as file:
        file.truncate(2**40)  # sparse
    refused(single, ValueError, "config.json must have at most 33554432 bytes")


def test_long_names_and_halves_of_characters_are_told_in_a_line(sharded: Path) -> None:
    with_map(sharded, {"a\n" * 1_000_000: "x" * 1_000_000 + "\n.bin"})
    with pytest.raises(ValueError) as error:
        Checkpoint.open(sharded)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    (sharded / "model.safetensors.index.json").write_text(r'{"weight_map": {"\ud800": "x.safetensors"}}')
    refused(sharded, ValueError, r"index.json must be Unicode, got '\ud800' by itself")


def test_a_file_that_is_cut_while_it_is_open_is_named(single: Path) -> None:
    checkpoint = Checkpoint.open(single)
    os.truncate(single / "model.safetensors", (single / "model.safetensors").stat().st_size - 8)
    assert (checkpoint.tensors["a"] == TENSORS["a"]).all()
    with pytest.raises(OSError, match=r"tensor 'd' is gone, the file was cut while it was open.*model\.safetensors"):
        checkpoint.tensors["d"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"a": ' + "1" * 5000 + "}", "must be JSON: a whole number in it has more than 4300 digits"),
        ("[" * 5000, "must be JSON: it is too deep to read"),
        ('{"a": 1,\n b}', "must be JSON: Expecting property name enclosed in double quotes at line 2 column 2"),
        ('{"a": "\t"}\n', "must be JSON: Invalid control character at column 8"),
    ],
)
def test_what_json_refuses_is_told_in_our_words(single: Path, written: str, said: str) -> None:
    (single / "config.json").write_text(written)
    refused(single, ValueError, f"config.json {said}")
