"""Write beside, sync, rename: what appears under a final name is whole, also after a kill or a power cut."""

import errno
import itertools
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = re.sub(r"[^\w-]", "_", platform.node())
_numbers = itertools.count()
_being_written: set[str] = set()


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Puts data (text as UTF-8) into path. Raises OSError, with whatever was under path before untouched."""
    path = Path(path)
    with partial(path) as beside:
        try:
            with beside.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk does not say which file it was
            raise OSError(error.errno, error.strerror, str(path)) from None
        os.replace(beside, path)
        sync(path.parent)


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A name beside path to write a file or folder under; if it is still there at the end, it is removed."""
    _sweep(path)
    beside = _beside(path, "partial")
    _being_written.add(beside.name)
    try:
        yield beside
    finally:
        remove(beside)
        _being_written.discard(beside.name)


def replace_folder(beside: Path, folder: Path) -> None:
    """Puts beside into the place of folder, which steps aside first and comes back if that fails."""
    aside = _beside(folder, "replaced")
    os.rename(folder, aside)
    try:
        os.rename(beside, folder)
    except BaseException:
        os.rename(aside, folder)
        raise
    sync(folder.parent)
    remove(aside)


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{_HOST}-{os.getpid()}-{next(_numbers)}.{kind}"


def _sweep(path: Path) -> None:
    """Removes what killed processes of this machine left beside path; a replaced folder only if there is a new one."""
    kinds = "partial|replaced" if path.exists() else "partial"
    left = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(_HOST)}-(\d+)-\d+\.({kinds})")
    for entry in list(path.parent.iterdir()):
        found = left.fullmatch(entry.name)
        if found and entry.name not in _being_written and not _is_another_process(int(found[1])):
            remove(entry)


def _is_another_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Removes a file, link or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Brings a file's contents or a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
