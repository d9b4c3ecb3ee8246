"""SHA256SUMS: the checksums of a folder's files, as `sha256sum -c SHA256SUMS` reads them too."""

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attnedit import runtime
from attnedit.checkpoint.folder import sha256
from attnedit.foreign import require_inside

SUMS = "SHA256SUMS"
MOST_BYTES = 2**20
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")


def write_sums(folder: Path) -> None:
    """Notes every file that lies in folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), "utf-8")


def compare_sums(folder: Path, whole: bool = False) -> None:
    """Reads every file that SHA256SUMS names, where folder has one.

    Raises ValueError with the name of weights that are not what was written, FileNotFoundError of weights (whole: of
    any file) that are missing. People write into the other files, so of those it warns, and of lines that are none.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    require_inside(folder, path)
    with path.open("rb") as file:
        lines = file.read(MOST_BYTES).decode(errors="replace").splitlines()
    noted: dict[Path, str] = {}
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None:
            warnings.warn(f"{path} line {number} is not a SHA-256 and the name of a file of this folder", stacklevel=3)
        elif not (other := folder / found[2]).is_file():
            said = f"{other} {'must be a file' if other.exists() else 'is missing'}, {SUMS} notes it"
            if whole or other.suffix == ".safetensors":
                raise FileNotFoundError(f"[checkpoint] {said}")
            warnings.warn(said, stacklevel=3)
        else:
            require_inside(folder, folder / found[2])
            noted[folder / found[2]] = found[1]
    with ThreadPoolExecutor(runtime.get_num_threads()) as threads:
        for other, is_now in zip(noted, threads.map(sha256, noted), strict=True):
            said = f"{other} is not what {SUMS} notes"
            if is_now != noted[other] and other.suffix == ".safetensors":
                raise ValueError(f"[checkpoint] {said}: one of the two is damaged")
            if is_now != noted[other]:
                warnings.warn(f"{said}: it is damaged, or was changed by hand", stacklevel=3)
