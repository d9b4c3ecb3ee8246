"""How much text there is, without reading all of it: a part's size, and what its beginning holds."""

import io
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from attnedit.data.documents import Part, cleaned, open_parquet
from attnedit.data.files import CHUNK_BYTES, decompressed, format_of, is_compressed


def size_of(part: Part) -> int:
    """The rows of parquet; else bytes as they lie on the disk, compressed or not."""
    if format_of(part.path) == "parquet":
        return sum(_row_groups(part.path, part.field)[part.begin : part.end])
    return part.end - part.begin


def beginning(part: Part, characters: int) -> tuple[list[str], int]:
    """The first documents of a part, with about so many characters (of plain text, all of them), and their size."""
    if format_of(part.path) == "parquet":
        rows: list[str] = []
        for text in part.texts():
            rows.append(text)
            characters -= len(text)
            if characters <= 0:
                break
        return list(cleaned(rows)), len(rows)
    if not is_compressed(part.path):
        return list(part.documents()), size_of(part)
    with part.path.open("rb") as file, decompressed(part.path, file) as raw, TemporaryDirectory() as folder:
        stream = io.BufferedReader(raw)
        begun = stream.read(max(characters, CHUNK_BYTES))
        # A few MiB more show how much they are compressed: the library reads ahead of what it gives.
        unpacked, size = len(begun) + len(stream.read(7 * CHUNK_BYTES)), file.tell()
        if not stream.read(1):
            size = size_of(part)
        if unpacked > len(begun):  # to the end of a line, where there are lines
            begun = begun[: begun.rfind(b"\n") + 1] or begun.decode(errors="ignore").encode()
        plain = Path(folder) / part.path.stem
        plain.write_bytes(begun)
        documents = list(Part(plain, part.field, part.separator, 0, len(begun)).documents())
        return documents, size * len(begun) // unpacked if unpacked else size


@lru_cache(maxsize=4096)
def _row_groups(path: Path, field: str) -> list[int]:
    """How many rows each has."""
    metadata = open_parquet(path, field).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
