"""The reader against the reference reader, and against files that lie."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from attnedit.checkpoint.safetensors_file import DTYPES, SafetensorsFile

QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")


def random_array(seed: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Any bits, NaN included; for bool, 0 and 1."""
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    return np.frombuffer(rng.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


@QUICK
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 99)), max_size=5),
    st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), min_size=1),
)
def test_what_the_reference_writes_is_read_bit_for_bit(
    tmp_path: Path, described: dict[str, tuple[str, tuple[int, ...], int]], metadata: dict[str, str] | None
) -> None:
    arrays = {name: random_array(seed, DTYPES[dtype], shape) for name, (dtype, shape, seed) in described.items()}
    save_file(arrays, tmp_path / "x.safetensors", metadata)
    read = SafetensorsFile(tmp_path / "x.safetensors")
    assert read.stored.keys() == arrays.keys()
    for name, array in arrays.items():
        again = read.array(name)
        assert (again.dtype, again.shape) == (array.dtype, array.shape) == (read.stored[name].dtype, array.shape)
        assert again.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_are_read_only_views_of_the_file(tmp_path: Path, dtype: type) -> None:
    save_file({"w": np.arange(12).astype(dtype).reshape(3, 4)}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    first, second = file.array("w"), file.array("w")
    assert np.shares_memory(first, second) and not first.flags.owndata and not first.flags.writeable
    assert first.flags.aligned and first.flags.c_contiguous
    del file  # the view keeps the map
    assert first.astype(np.float32).sum() == 66


def written(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, dtype: object = "F32", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


TWICE = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "the header must be JSON"),
        (b"not json", b"", "the header must be JSON"),
        (b"\xff\xfe{}", b"", "the header must be UTF-8, byte 0 is not"),
        (b"[]", b"", "the header must be a JSON object, got list"),
        (b"[" * 100_000, b"", "the header must be JSON"),
        (b'{"w": {"dtype": ' + b"1" * 5000 + b"}}", b"", "the header must be JSON"),
        (b'{"w": {"dtype": ' + b"[" * 900 + b"]" * 900 + b', "shape": [], "data_offsets": [0, 0]}}', b"", "tensor 'w'"),
        (TWICE, b"x", "the header names 'w' twice"),
        ({"__metadata__": {"format": 1}}, b"", "__metadata__ must map text to text"),
        ({"w": 3}, b"", "tensor 'w' must have dtype, shape and data_offsets, got 3"),
        ({"w": {"dtype": "F32"}}, b"", "tensor 'w' must have dtype, shape and data_offsets"),
        ({"w": entry(0, 4, "F31")}, b"1234", "tensor 'w' must have a dtype among BOOL, U8"),
        ({"w": entry(0, 4, ["F32"])}, b"1234", "tensor 'w' must have a dtype among"),
        ({"w": entry(0, 4, shape=[-1])}, b"1234", "tensor 'w' must have a shape of at most 64 sizes, got [-1]"),
        ({"w": entry(0, 4, shape=[True])}, b"1234", "tensor 'w' must have a shape of at most 64 sizes, got [True]"),
        ({"w": entry(0, 4, shape=[1.0])}, b"1234", "tensor 'w' must have a shape of at most 64 sizes, got [1.0]"),
        ({"w": entry(0, 4, shape={"0": 1})}, b"1234", "tensor 'w' must have a shape"),
        ({"w": entry(0, 4, shape=[1] * 65)}, b"1234", "tensor 'w' must have a shape of at most 64 sizes"),
        ({"w": entry(0, 4, shape=[2**40, 2**40])}, b"1234", "tensor 'w' must have a shape that fits into memory"),
        ({"w": entry(0, 0, shape=[0, 2**62, 8])}, b"", "tensor 'w' must have a shape that fits into memory"),
        ({"w": entry(0, 4, shape=[2**64 + 1])}, b"1234", "tensor 'w' must have a shape"),
        ({"w": {**entry(0, 4), "data_offsets": [0]}}, b"1234", "must have data_offsets [begin, end], got [0]"),
        ({"w": {**entry(0, 4), "data_offsets": [4, 0]}}, b"1234", "tensor 'w' must have data_offsets [begin, end]"),
        ({"w": {**entry(0, 4), "data_offsets": [-4, 0]}}, b"1234", "tensor 'w' must have data_offsets [begin, end]"),
        ({"w": {**entry(0, 4), "data_offsets": "04"}}, b"1234", "tensor 'w' must have data_offsets [begin, end]"),
        ({"w": entry(0, 4, shape=[3])}, b"1234", "tensor 'w' must have 12 bytes, being F32 of shape [3], got 4"),
        ({"w": entry(0, 8)}, b"1234", "is truncated: tensor 'w' ends at byte"),
        ({"w": entry(0, 4)}, b"12345", "has 1 bytes behind 'w' that belong to no tensor"),
        ({}, b"1", "has 1 bytes behind the header that belong to no tensor"),
        ({"w": entry(4, 8)}, b"12345678", "as of a deleted tensor, behind the header: it begins at byte 4, not 0"),
        ({"v": entry(0, 8), "w": entry(4, 12)}, b"123456789abc", "tensor 'w' overlaps 'v': it begins at byte 4, not 8"),
        ({"v": entry(0, 4), "w": entry(0, 4)}, b"1234", "tensor 'w' overlaps 'v'"),
        ({"v": entry(0, 4), "w": entry(8, 12)}, b"123456789abc", "a gap, as of a deleted tensor, behind 'v'"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    path = written(tmp_path / "x.safetensors", header, data)
    with pytest.raises(ValueError) as refused:
        SafetensorsFile(path)
    said = str(refused.value)
    assert message in said and str(path) in said and "\n" not in said and len(said) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must start with 8 bytes of header length, got 0 bytes"),
        (b"1234567", "must start with 8 bytes of header length, got 7 bytes"),
        (struct.pack("<Q", 3) + b"{}", "its header should have 3 bytes, 2 are there"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "its header should have 18446744073709551615 bytes"),
    ],
)
def test_a_bad_header_length_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SafetensorsFile(tmp_path / "x.safetensors")


def test_a_header_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", b"{}", length=2**25 + 1)
    with path.open("r+b") as file:
        file.truncate(2**25 + 100)  # sparse
    with pytest.raises(ValueError, match="a header of at most 33554432 bytes"):
        SafetensorsFile(path)


def test_a_tensor_at_an_odd_address_is_copied_to_an_even_one(tmp_path: Path) -> None:
    """The format allows it; arithmetic on such a view would be slow or undefined."""
    header = {"a": entry(0, 1, "U8", [1]), "w": entry(1, 9)}
    read = SafetensorsFile(written(tmp_path / "x.safetensors", header, b"\0" + np.array([1.5, 2], "<f4").tobytes()))
    assert read.array("w").tolist() == [1.5, 2] and read.array("w").flags.aligned


def try_everything(path: Path) -> bool:
    """Whether the file is read; only ValueError and OSError may come out."""
    try:
        file = SafetensorsFile(path)
        for name in file.stored:
            assert file.array(name).nbytes == len(file.array(name).tobytes())
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)
        return False
    return True


GOOD = {"v": np.arange(6, dtype=np.float32).reshape(2, 3), "w": np.ones((2, 2), ml_dtypes.bfloat16)}


@QUICK
@given(st.data())
def test_corrupted_files_raise_nothing_but_value_and_os_errors(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.safetensors"
    save_file(GOOD, path, {"format": "pt"})
    content = bytearray(path.read_bytes())
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(header_end, len(content)) - 1))
        kind = data.draw(st.sampled_from(["set", "digit", "cut", "insert"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "digit":
            digits = [i for i in range(8, header_end) if i < len(content) and chr(content[i]).isdigit()]
            if digits:
                content[data.draw(st.sampled_from(digits))] = data.draw(st.sampled_from(b"0123456789-e."))
        elif kind == "cut":
            del content[data.draw(st.integers(0, len(content))) :]
        else:
            content[at:at] = data.draw(st.binary(max_size=9))
        if len(content) < 9:
            break
    path.write_bytes(content)
    if try_everything(path):
        try:
            with safe_open(path, framework="np") as reference:
                assert set(reference.keys()) == set(SafetensorsFile(path).stored)
        except SafetensorError as error:  # what we read and the reference does not
            assert "MetadataIncompleteBuffer" not in str(error) and "InvalidOffset" not in str(error), error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["F32", "BF16", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6,
)  # fmt: skip
ENTRY = st.fixed_dictionaries({"dtype": JSON, "shape": JSON | st.lists(st.integers(-2, 2**65), max_size=3),
                               "data_offsets": JSON | st.lists(st.integers(-2, 12), max_size=3)})  # fmt: skip


@QUICK
@given(JSON | st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), ENTRY | JSON, max_size=3))
def test_any_json_for_a_header_is_read_or_refused(tmp_path: Path, header: object) -> None:
    try_everything(written(tmp_path / "x.safetensors", header, b"\0" * 8))


@QUICK
@given(st.binary(max_size=64))
def test_any_bytes_for_a_file_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    try_everything(tmp_path / "x.safetensors")
