"""save_checkpoint: names and arrays -> a Hugging Face folder."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from attnedit.checkpoint.atomic import partial, replace_folder, sync
from attnedit.checkpoint.folder import CONFIG, INDEX, SINGLE, WEIGHTS
from attnedit.checkpoint.pages import give_back
from attnedit.checkpoint.safetensors_file import DTYPES, Array, checksums

SHARD_BYTES = 2_000_000_000  # a shard is in memory while it is written


def save_checkpoint(
    folder: str | Path,
    config: dict[str, Any],
    tensors: Mapping[str, Array],
    files: Iterable[str | Path] = (),
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    check: Callable[[Path], None] | None = None,
    behind_shard: Callable[[], None] = lambda: None,
) -> None:
    """Writes config.json, the tensors, and copies of `files` into a new folder.

    Shards of at most shard_bytes (a larger tensor has one to itself) are filled in the order of `tensors`, whose values
    are asked for once each, so that a mapping may compute them; within a file the format sorts by type and name.
    `check` sees the whole folder before it takes its name, and may add what it found; what it raises leaves nothing.
    `behind_shard` is called when one is written, to let go of what its tensors were made from.
    An existing folder is replaced only with overwrite=True, and only if it is a checkpoint or empty. Raises
    FileExistsError, other OSErrors for the disk and ValueError for what the format cannot hold; then nothing is left.
    """
    folder = Path(os.path.abspath(folder))
    _replaceable(folder, overwrite)
    copied = [Path(file) for file in files]
    for i, file in enumerate(copied):
        taken = [CONFIG, INDEX, *(other.name for other in copied[:i])]
        if file.name in taken or file.suffix in WEIGHTS:
            raise ValueError(f"[save_checkpoint] files must not hold config, weights or one name twice, got {file}")
    text = json.dumps(config, indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with partial(folder) as beside:
        beside.mkdir()
        (beside / CONFIG).write_text(text, "utf-8")
        for file in copied:
            shutil.copyfile(file, beside / file.name)
        _write_shards(beside, _shards(tensors, shard_bytes), behind_shard)
        if check is not None:
            check(beside)
        for path in beside.iterdir():
            sync(path)
        sync(beside)
        if overwrite and os.path.lexists(folder):
            replace_folder(beside, folder)
        else:
            os.rename(beside, folder)
            sync(folder.parent)


def _replaceable(folder: Path, overwrite: bool) -> None:
    """Raises unless a new folder may take this name."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"[save_checkpoint] {folder} exists already")
    if not (folder / CONFIG).is_file():
        raise FileExistsError(f"[save_checkpoint] {folder} is no checkpoint, so it is not replaced")


def _shards(tensors: Mapping[str, Array], shard_bytes: int) -> Iterator[dict[str, Array]]:
    """Neighbouring tensors, as many as fit; at least one shard."""
    shard: dict[str, Array] = {}
    filled = 0
    known = set(DTYPES.values())
    for name, values in tensors.items():
        array = np.asarray(values, order="C")  # the writer takes the memory as it lies
        if array.dtype.newbyteorder("=") not in known:
            raise ValueError(f"[save_checkpoint] tensor {name!r} must have a dtype of the format, got {array.dtype}")
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"[save_checkpoint] tensor {name!r} must have another name, this one is the format's own")
        if shard and filled + array.nbytes > shard_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = array
        filled += array.nbytes
    yield shard


def _write_shards(folder: Path, shards: Iterator[dict[str, Array]], behind_shard: Callable[[], None]) -> None:
    """Numbered files and their index, or model.safetensors if there is one only."""
    names: list[list[str]] = []
    total = 0
    for i, shard in enumerate(shards):
        _write(folder / f"{i}.safetensors", shard, {"format": "pt"})
        for array in shard.values():
            give_back(array)
        names.append(list(shard))
        total += sum(array.nbytes for array in shard.values())
        behind_shard()
    if len(names) == 1:
        os.rename(folder / "0.safetensors", folder / SINGLE)
        return
    weight_map = {}
    for i, held in enumerate(names):
        shard_name = f"model-{i + 1:05d}-of-{len(names):05d}.safetensors"
        os.rename(folder / f"{i}.safetensors", folder / shard_name)
        weight_map.update(dict.fromkeys(held, shard_name))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Puts arrays into a safetensors file, straight from where they lie, whole or not at all, with their checksums:
    read_arrays reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with partial(path) as beside:
        _write(beside, contiguous, checksums(contiguous))
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)


def _write(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise ValueError(f"[save_checkpoint] {path.name}: {error}") from None
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    path.chmod(mode)  # the writer makes files that only their owner reads
