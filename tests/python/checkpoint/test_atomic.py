"""atomic_write: whole or not at all."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attnedit.checkpoint import atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "é\n")
    atomic_write(str(tmp_path / "b"), b"\0\xff")
    assert (tmp_path / "a").read_bytes() == "é\n".encode() and (tmp_path / "b").read_bytes() == b"\0\xff"
    atomic_write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_contents_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    atomic_write(tmp_path / "a", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{failing}", full)
        with pytest.raises(OSError, match="No space left" + (".*/a'" if failing == "fsync" else "")):
            atomic_write(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        atomic_write(tmp_path / "nowhere/a", "")


def test_leftovers_of_dead_processes_go_and_those_of_others_stay(tmp_path: Path) -> None:
    from attnedit.checkpoint.atomic import _HOST

    dead = f"{_HOST}-{2**22 + 1}-0"  # above every process number of Linux
    earlier = f"{_HOST}-{os.getpid()}-999999"  # a process that had our number, as in a restarted container
    gone = [f".a.{dead}.partial", f".a.{earlier}.partial"]
    stays = [f".a.{_HOST}-{os.getppid()}-0.partial", f".ab.{dead}.partial", f".a.elsewhere{dead}.partial"]
    only_copy = f".b.{dead}.replaced"
    for name in (*gone, *stays, only_copy):
        (tmp_path / name).touch()
    atomic_write(tmp_path / "a", "")
    atomic_write(tmp_path / "b", "")  # until now there was no b, so what it had been must not go
    assert names(tmp_path) == sorted(["a", "b", *stays, only_copy])
    atomic_write(tmp_path / "b", "")
    assert names(tmp_path) == sorted(["a", "b", *stays])


def test_many_writers_of_one_file_leave_one_whole_version(tmp_path: Path) -> None:
    def write(i: int) -> None:
        for _ in range(20):
            atomic_write(tmp_path / "a", str(i) * 10_000)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    text = (tmp_path / "a").read_text()
    assert len(text) == 10_000 and len(set(text)) == 1 and names(tmp_path) == ["a"]
