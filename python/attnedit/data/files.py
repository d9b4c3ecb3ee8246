"""Files of text as they lie on the disk: which ones a pattern means, what they hold, and where one can be cut."""

import codecs
import glob
import gzip
import hashlib
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

CHUNK_BYTES = 1 << 20
ZSTD_BYTES = 1 << 9  # decompressed at once
LONGEST = 4 << 20  # characters of a document, bytes that a cut looks ahead: what has to be in memory at once

Format = Literal["text", "jsonl", "parquet"]
_SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")


def format_of(path: Path) -> Format:
    """By the name, without .gz or .zst: JSON lines, parquet, or else plain text."""
    name = Path(path.stem) if is_compressed(path) else path
    return _SUFFIXES.get(name.suffix.lower(), "text")


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in _COMPRESSED


def matching_files(pattern: str | Path, root: Path) -> list[Path]:
    """A file by its name, every file below a folder, or what a glob matches; sorted. Hidden ones are left out of a
    folder. Raises ValueError if there is none."""
    asked = os.path.expanduser(pattern)
    # A path with brackets in it is also a glob, which would not match itself.
    names = [asked] if (root / asked).exists() else sorted(glob.glob(asked, root_dir=root, recursive=True))
    found: list[Path] = []
    for path in (root / name for name in names):
        if path.is_file():
            found.append(path)
        elif path.is_dir() and "**" not in asked:  # ** has named what is inside already
            found += sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    if not found:
        raise ValueError(f"[data] a file must match {str(root / asked)!r}, got none")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the files' contents, in this order; names and places do not matter."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes behind a file's compression, if it has one. Raises ValueError where that is broken."""
    if is_compressed(path):
        with path.open("rb") as file, decompressed(path, file) as stream:
            yield io.BufferedReader(stream, CHUNK_BYTES)
    else:
        with path.open("rb", CHUNK_BYTES) as plain:
            yield plain


@contextmanager
def decompressed(path: Path, file: IO[bytes]) -> Iterator[Any]:
    """What is behind the compression of path, open as file, which is read little further than is asked for."""
    try:
        yield gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else _zstd(path, file)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"[data] {path} must be a whole gzip file: {error}") from None


def _zstd(path: Path, file: IO[bytes]) -> Any:
    try:
        from compression import zstd  # of Python 3.14

        return zstd.ZstdFile(file)
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        raise ValueError(f"[data] {path} needs the zstandard library: pip install 'attnedit[data]'") from None

    class Stream(io.RawIOBase):
        """zstandard's own reader ends inside a cut file without a word. What it makes of a few bytes has no limit but
        128 KiB for every four of them, so it gets few at a time."""

        def __init__(self) -> None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._inside, self._left, self._ready = False, b"", memoryview(b"")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            while not self._ready:
                block = self._left or file.read(ZSTD_BYTES)
                if not block:
                    if self._inside:
                        raise ValueError(f"[data] {path} must be a whole zstd file: it ends inside a frame")
                    return 0
                try:
                    self._ready = memoryview(self._frame.decompress(block))
                except zstandard.ZstdError as error:
                    raise ValueError(f"[data] {path} must be a whole zstd file: {error}") from None
                self._inside, self._left = not self._frame.eof, self._frame.unused_data
                if self._frame.eof:
                    self._frame = zstandard.ZstdDecompressor().decompressobj()
            taken = self._ready[: len(buffer)]
            self._ready = self._ready[len(taken) :]
            buffer[: len(taken)] = taken
            return len(taken)

    return Stream()


def decoded(chunks: Iterator[bytes], path: Path, at: int = 0) -> Iterator[str]:
    """UTF-8 bytes, the first of them number `at` of the file, as text with \\n for every line end and no BOM."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    lines = io.IncrementalNewlineDecoder(utf8, translate=True)
    beginning = at == 0
    for chunk, last in _marked(chunks):
        before = len(utf8.getstate()[0])
        try:
            text = lines.decode(chunk, last)
        except UnicodeDecodeError as error:
            byte, place = error.object[error.start], at - before + error.start
            raise ValueError(f"[data] {path} must be UTF-8, byte {place} ({byte:#04x}) is not") from None
        at += len(chunk)
        if beginning and text:
            text, beginning = text.removeprefix("\ufeff"), False
        yield text


def _marked(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The chunks, the last one marked."""
    held = b""
    for chunk in chunks:
        if held:
            yield held, False
        held = chunk
    yield held, True


def cut(file: IO[bytes], at: int, size: int, separator: str | None) -> int:
    """The first byte from `at` on at which a document begins (a line, without a separator), or a character if none is
    near: the same place for whoever ends there and whoever begins there."""
    if not 0 < at < size:
        return max(0, min(at, size))
    # A line end may be written in three ways, of which \r\n is not two.
    mark = "\n" if separator is None else separator
    pattern = re.compile(re.escape(mark).replace("\\\n", "(?>\r\n|\n|\r)").encode())
    begin = max(0, at - 2 * len(mark.encode()))
    window = b""
    for reach in (1 << 16, LONGEST):
        file.seek(begin)
        window = file.read(reach)
        for match in pattern.finditer(window):
            # A \r at the end of a window may be half of a line end.
            if begin + match.end() >= at and (match.end() < len(window) or begin + len(window) == size):
                return begin + match.end()
        if begin + len(window) == size:
            return size
    while at < size and 0x80 <= window[at - begin] < 0xC0:
        at += 1
    return at
