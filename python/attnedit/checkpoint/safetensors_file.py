"""A safetensors file, memory-mapped: the header is checked in full at opening, arrays are views of the map.

    8 bytes, little endian: n | n bytes of JSON: {name: {dtype, shape, data_offsets}} | the tensors' bytes, without gaps

The format: https://huggingface.co/docs/safetensors. The PyPI reader copies each tensor that it returns.
"""

import errno
import json
import math
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from attnedit.checked import shown
from attnedit.checkpoint.json_object import MOST_JSON_BYTES, must_be_file, remade
from attnedit.checkpoint.pages import give_back
from attnedit.foreign import parse_object

Array: TypeAlias = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
        "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F32": np.float32, "F64": np.float64, "C64": np.complex64, "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip
MOST_DIMENSIONS = 64  # numpy's limit
CHECKSUMS = "crc32"  # the metadata of files that a run keeps for itself: JSON, {name: CRC-32}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """path, opened and checked. Raises OSError where it cannot be read, ValueError where it is malformed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        must_be_file(path)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise ValueError(f"[checkpoint] {path} must start with 8 bytes of header length, got {size} bytes")
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        header_bytes = int.from_bytes(self._map[:8], "little")
        if header_bytes > size - 8:
            raise ValueError(
                f"[checkpoint] {path} is truncated or no safetensors: its header should have {header_bytes} bytes, "
                f"{size - 8} are there"
            )
        if header_bytes > MOST_JSON_BYTES:
            raise ValueError(
                f"[checkpoint] {path} must have a header of at most {MOST_JSON_BYTES} bytes, got {header_bytes}"
            )
        header = parse_object(self._map[8 : 8 + header_bytes], f"[checkpoint] {path}: the header")
        self.metadata = _metadata(header, path)
        self.stored = _checked(header, path, 8 + header_bytes, size)

    def array(self, name: str) -> Array:
        """A read-only view of the file; a copy only where the file puts a tensor at an odd address for its type.

        Raises OSError where the file was cut since it was opened: looking at what is gone would end the process.
        """
        at = self.stored[name]
        if self._map.size() < at.begin + at.nbytes:
            raise OSError(
                errno.EIO, f"tensor {shown(name)} is gone, the file was cut while it was open", str(self.path)
            )
        array: Array = np.ndarray(at.shape, at.dtype, self._map, at.begin)
        return array if array.flags.aligned else array.copy()


def _metadata(header: dict[str, Any], path: Path) -> dict[str, str]:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"[checkpoint] {path}: __metadata__ must map text to text, got {shown(metadata)}")
    return metadata


def _checked(header: dict[str, Any], path: Path, data_begin: int, size: int) -> dict[str, Stored]:
    """The header's tensors; they must cover the rest of the file, each byte once."""
    stored = {
        name: _tensor(f"[checkpoint] {path}: tensor {shown(name)}", entry, data_begin) for name, entry in header.items()
    }
    end, before = data_begin, "the header"
    for name, at in sorted(stored.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if at.begin != end:
            fault = "overlaps" if at.begin < end else "leaves a gap, as of a deleted tensor, behind"
            raise ValueError(
                f"[checkpoint] {path}: tensor {shown(name)} {fault} {before}: "
                f"it begins at byte {at.begin - data_begin}, not {end - data_begin}"
            )
        end, before = at.begin + at.nbytes, shown(name)
        if end > size:
            raise ValueError(
                f"[checkpoint] {path} is truncated: tensor {shown(name)} ends at byte {end}, the file has {size}"
            )
    if end != size:
        raise ValueError(f"[checkpoint] {path} has {size - end} bytes behind {before} that belong to no tensor")
    return stored


def _tensor(where: str, entry: Any, data_begin: int) -> Stored:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{where} must have dtype, shape and data_offsets, got {shown(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{where} must have a dtype among {', '.join(DTYPES)}, got {shown(dtype)}")
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{where} must have a shape of at most {MOST_DIMENSIONS} sizes, got {shown(shape)}")
    # numpy multiplies the sizes that are not 0 even where another one is.
    if math.prod(size for size in shape if size) * DTYPES[dtype].itemsize >= 2**63:
        raise ValueError(f"{where} must have a shape that fits into memory, got {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{where} must have data_offsets [begin, end], got {shown(offsets)}")
    made = Stored(DTYPES[dtype], tuple(shape), data_begin + offsets[0])
    if made.nbytes != offsets[1] - offsets[0]:
        got = offsets[1] - offsets[0]
        raise ValueError(f"{where} must have {made.nbytes} bytes, being {dtype} of shape {shown(shape)}, got {got}")
    return made


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def checksum(name: str, array: Array) -> int:
    """CRC-32 of a tensor's name, type, shape and numbers."""
    value = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode())
    numbers = array.reshape(-1).view(np.uint8)
    step = 1 << 24
    for i in range(0, numbers.size, step):
        part = numbers[i : i + step]
        value = zlib.crc32(part.data, value)
        give_back(part)  # looking at every number must not leave the whole file in memory
    return value


def read_arrays(path: Path) -> Mapping[str, Array]:
    """The arrays that write_arrays stored, mapped. Raises ValueError with the file's name where it was damaged."""
    with remade(path):
        file = SafetensorsFile(path)
    arrays = {name: file.array(name) for name in file.stored}
    noted = parse_object(file.metadata.get(CHECKSUMS, "{}").encode(), f"[checkpoint] {path}: {CHECKSUMS}")
    for name in sorted(arrays.keys() | noted.keys()):
        if name not in arrays or checksum(name, arrays[name]) != noted.get(name):
            raise ValueError(
                f"[checkpoint] {path} is damaged: tensor {shown(name)} does not have its checksum; remove the file to "
                "have it made again"
            )
    return arrays


def checksums(arrays: Mapping[str, Array]) -> dict[str, str]:
    """The metadata by which read_arrays knows them again."""
    return {CHECKSUMS: json.dumps({name: checksum(name, array) for name, array in arrays.items()})}
