"""Checkpoint: a Hugging Face folder, opened for reading."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from attnedit.checked import shown
from attnedit.checkpoint.json_object import read_object
from attnedit.checkpoint.safetensors_file import Array, SafetensorsFile, Stored
from attnedit.foreign import require_inside

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
WEIGHTS = PICKLES | {".safetensors", ".gguf", ".h5", ".msgpack", ".onnx"}
LICENCES = ("licence", "license", "notice", "copying", "use_policy")


class StoredTensors(Mapping[str, Array]):
    """Names -> read-only arrays. Nothing is read before an array's numbers are looked at."""

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> Array:
        return self._files[name].array(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def stored(self, name: str) -> Stored:
        return self._files[name].stored[name]


@dataclass(frozen=True)
class Checkpoint:
    """A folder's config.json and its weights, memory-mapped."""

    folder: Path
    config: dict[str, Any]
    tensors: StoredTensors
    weight_files: tuple[Path, ...]

    @classmethod
    def open(cls, folder: str | Path) -> "Checkpoint":
        """Reads config.json and the headers of model.safetensors, or of the shards that its index names.

        Raises OSError for files that are missing or cannot be read and ValueError for malformed ones, in one line that
        names the file and the tensor.
        """
        folder = Path(os.path.abspath(folder))
        if not folder.is_dir():
            raise NotADirectoryError(
                f"[checkpoint] {folder} must be a folder, got {'a file' if folder.exists() else 'nothing'}"
            )
        require_inside(folder, folder / CONFIG)
        config = read_object(folder / CONFIG)
        if os.path.lexists(folder / SINGLE):
            require_inside(folder, folder / SINGLE)
            file = SafetensorsFile(folder / SINGLE)
            return cls(folder, config, StoredTensors(dict.fromkeys(file.stored, file)), (file.path,))
        if not (folder / INDEX).exists():
            raise _no_weights(folder)
        files = _sharded(folder)
        shards = dict.fromkeys(file.path for file in files.values())
        return cls(folder, config, StoredTensors(files), (folder / INDEX, *shards))

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.stored(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.tensors.stored(name).dtype

    def fingerprint(self) -> str:
        """SHA-256 over the contents of config.json and the weight files; read again only after a file has changed."""
        digest = hashlib.sha256()
        for path in (self.folder / CONFIG, *self.weight_files):
            status = path.stat()
            digest.update(f"{path.name} {_file_digest(path, status.st_size, status.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def other_files(self) -> list[Path]:
        """What else people keep in such a folder: tokenizer, generation settings, licence. No weights of any kind."""
        return sorted(
            path for path in self.folder.iterdir()
            if path.is_file() and not path.name.startswith(".") and path.name != CONFIG
            and path.suffix not in WEIGHTS and not path.name.endswith(".index.json")
        )  # fmt: skip

    def licence_files(self) -> list[Path]:
        return [path for path in self.other_files() if path.name.lower().startswith(LICENCES)]


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_weights(folder: Path) -> Exception:
    found = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS)
    pickles = [name for name in found if Path(name).suffix in PICKLES]
    if pickles and pickles == found:
        return ValueError(
            f"[checkpoint] {folder} holds its weights as {pickles[0]} only; pickles are never opened, "
            "convert it to safetensors"
        )
    only = f", only {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}" if found else ""
    return FileNotFoundError(f"[checkpoint] {folder} must hold {SINGLE} or {INDEX}, there is neither{only}")


def _sharded(folder: Path) -> dict[str, SafetensorsFile]:
    """Tensor -> shard as the index says, and as the shards themselves agree; with tensors that the index leaves out."""
    index = folder / INDEX
    require_inside(folder, index)
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"[checkpoint] {index}: weight_map must map tensors to files, got {shown(weight_map)}")
    shards: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or "\\" in shard or "\0" in shard \
                or PurePosixPath(shard).name != shard:  # fmt: skip
            raise ValueError(
                f"[checkpoint] {index}: tensor {shown(name)} must lie in a .safetensors file of this folder, "
                f"got {shown(shard)}"
            )
        if shard not in shards:
            path = folder / shard
            if not path.is_file() and not path.is_symlink():
                raise FileNotFoundError(f"[checkpoint] {path} is missing; {INDEX} puts tensor {shown(name)} there")
            require_inside(folder, path)
            shards[shard] = SafetensorsFile(path)
        if name not in shards[shard].stored:
            raise ValueError(f"[checkpoint] {folder / shard}: tensor {shown(name)} is missing; {INDEX} puts it there")
    holder: dict[str, str] = {}
    for shard, file in shards.items():
        for name in file.stored:
            if name in holder:
                raise ValueError(
                    f"[checkpoint] {folder}: tensor {shown(name)} is both in {holder[name]} and in {shard}"
                )
            holder[name] = shard
    return {name: shards[shard] for name, shard in holder.items()}
