"""data/documents.py: text, JSON lines, parquet, plain and compressed. The first byte says which; the file follows."""

import contextlib
import gzip
import io
import random
import zlib
from pathlib import Path

import pyarrow
import zstandard
from pyarrow import parquet

from attnedit.data import Source, parts

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.zst", ".parquet")
LINES = b'{"text": "a tree"}\n\n{"text": "the river\\n runs", "id": 3}\n'
PLAIN = "a tree\r\n\r\nthe river r\u00fcns\n\n\U0001f333".encode()


def seeds() -> list[bytes]:
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["a tree", None, "the river"], "id": [1, 2, 3]}), table)
    files = (PLAIN, LINES, gzip.compress(PLAIN), zstandard.compress(LINES), table.getvalue())
    return [bytes([i]) + data for i, data in enumerate(files)]


def mutated(data: bytes, seed: int) -> bytes | None:
    """What is inside a compressed file, changed; None where there is no such thing."""
    kind, rng = data[0] % len(SUFFIXES) if data else 0, random.Random(seed)
    inside = bytearray()
    with contextlib.suppress(OSError, EOFError, zlib.error, zstandard.ZstdError):
        if SUFFIXES[kind].endswith(".gz"):
            inside = bytearray(gzip.GzipFile(fileobj=io.BytesIO(data[1:])).read(1 << 16))
        elif SUFFIXES[kind].endswith(".zst"):
            inside = bytearray(zstandard.ZstdDecompressor().stream_reader(data[1:]).read(1 << 16))
    if not inside:
        return None
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(inside))
        inside[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3)) or inside[: rng.randint(0, len(inside))]
        if not inside:
            break
    packed = gzip.compress(inside) if SUFFIXES[kind].endswith(".gz") else zstandard.compress(bytes(inside))
    return data[:1] + packed


def one_input(data: bytes, folder: Path) -> None:
    path = folder / f"text{SUFFIXES[data[0] % len(SUFFIXES)] if data else '.txt'}"
    path.write_bytes(data[1:])
    try:
        for part in parts(Source([str(path)], separator="\n\n"), folder):
            for document in part.documents():
                assert document.strip() == document != ""
                document.encode()
    except ValueError as error:
        assert str(path) in str(error), f"which file? {error}"
        raise
    finally:
        path.unlink()
