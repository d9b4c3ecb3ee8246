"""Files -> documents, a part of a file at a time, and which of them are held out."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field

from attnedit.checked import Positive, Text
from attnedit.data.files import (
    CHUNK_BYTES,
    LONGEST,
    cut,
    decoded,
    format_of,
    is_compressed,
    matching_files,
    opened,
)
from attnedit.foreign import json_fault

PART_BYTES = 1 << 20
LONGEST_LINE = 64 << 20


@dataclass(frozen=True)
class Source:
    """Text of one kind. The files' names tell what they are: .jsonl, .parquet or plain text, each also .gz or .zst."""

    files: Annotated[list[Text], Field(min_length=1)]  # paths, folders or globs
    field: Text = "text"  # that holds the text of a JSON line or a parquet row
    separator: Annotated[str, Field(min_length=1)] | None = None  # between the documents of plain text
    weight: Positive | None = None  # its share of the training rows, beside the other sources'


@dataclass(frozen=True, slots=True)
class Part:
    """What is read in one go: some bytes of a file, some row groups of a parquet file, or a whole compressed file."""

    path: Path
    field: str
    separator: str | None
    begin: int
    end: int

    def documents(self) -> Iterator[str]:
        """White space around a document goes, and so do empty documents; one of more than 4 Mi characters is several,
        cut behind a line's end. Raises ValueError for what is no text."""
        return cleaned(self.texts())

    def texts(self) -> Iterator[str]:
        """What the file has as its documents: a row or a line each, or what lies between separators."""
        kind = format_of(self.path)
        return {"parquet": self._rows, "jsonl": self._json_lines, "text": self._plain}[kind]()

    def _plain(self) -> Iterator[str]:
        with opened(self.path) as file:
            if is_compressed(self.path):
                chunks, begin = iter(lambda: file.read(CHUNK_BYTES), b""), 0
            else:
                size = self.path.stat().st_size
                begin, end = (cut(file, at, size, self.separator) for at in (self.begin, self.end))
                file.seek(begin)
                chunks = (file.read(min(CHUNK_BYTES, end - at)) for at in range(begin, end, CHUNK_BYTES))
            yield from _split(decoded(chunks, self.path, begin), self.separator)

    def _json_lines(self) -> Iterator[str]:
        with opened(self.path) as file:
            at, end = 0, None if is_compressed(self.path) else self.end
            if end is not None and self.begin > 0:  # a line belongs to where it begins
                file.seek(self.begin - 1)
                at = self.begin - 1 + len(file.readline(LONGEST_LINE))
            while end is None or at < end:
                line = file.readline(LONGEST_LINE)
                if not line:
                    return
                if line.strip():
                    yield self._text_of(line, at)
                at += len(line)

    def _text_of(self, line: bytes, at: int) -> str:
        try:
            if len(line) == LONGEST_LINE:
                raise ValueError(f"must be shorter than {LONGEST_LINE >> 20} MiB")
            row = _json(line)
            if not isinstance(row, dict):
                raise ValueError(f"must be a JSON object, got {type(row).__name__}")
            if not isinstance(row.get(self.field), str):
                got = type(row[self.field]).__name__ if self.field in row else f"keys {', '.join(row) or 'none'}"
                raise ValueError(f"must have text under {self.field!r}, got {_line(got)[:80]}")
            text: str = row[self.field]
            text.encode()  # an escape may stand for half a character
            return text
        except UnicodeEncodeError:
            fault = f"must have text under {self.field!r}, got half of a surrogate pair"
        except ValueError as error:
            fault = str(error)
        with opened(self.path) as file:
            number = 1 + sum(1 for _ in _lines_before(file, at))
        raise ValueError(f"[data] {self.path} line {number} {fault}")

    def _rows(self) -> Iterator[str]:
        import pyarrow

        file = open_parquet(self.path, self.field)
        groups = list(range(self.begin, self.end))
        batches = file.iter_batches(batch_size=256, row_groups=groups, columns=[self.field], use_threads=False)
        while True:
            try:
                batch = next(batches, None)
                texts = [] if batch is None else batch.column(0).to_pylist()
            except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
                raise _no_parquet(self.path, error) from None
            if batch is None:
                return
            yield from (text or "" for text in texts)


def cleaned(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for piece in _pieces(text):
            document = piece.strip()
            if document:
                yield document


def _lines_before(file: IO[bytes], at: int) -> Iterator[bytes]:
    seen = 0
    while seen < at:
        line = file.readline(LONGEST_LINE)
        seen += len(line)
        yield line


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8: byte {error.start} of it ({line[error.start]:#04x}) is not") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON object: {json_fault(error)}") from None


def open_parquet(path: Path, field: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"[data] {path} needs the pyarrow library: pip install 'attnedit[data]'") from None
    if is_compressed(path):
        raise ValueError(f"[data] {path} must be parquet as it is, which is compressed inside")
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        names = schema.names
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _no_parquet(path, error) from None
    if field not in names:
        raise ValueError(f"[data] {path} must have a column {field!r}, got {_line(', '.join(names))[:200]}")
    kind = schema.field(field).type
    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind  # pandas' categories are a dictionary
    if not (pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value)):
        raise ValueError(f"[data] {path} must have text in its column {field!r}, got {kind}")
    return file


def _line(text: str) -> str:
    return " ".join(text.split())


def _no_parquet(path: Path, error: Exception) -> ValueError:
    return ValueError(f"[data] {path} must be a parquet file: {_line(str(error))[:500]}")


def _split(texts: Iterable[str], separator: str | None) -> Iterator[str]:
    """What stands between separators; where there is none for long, pieces of LONGEST."""
    held = ""
    for text in texts:
        held += text
        if separator is not None:
            *whole, held = held.split(separator)
            yield from whole
        *whole, held = _pieces(held)
        yield from whole
    yield held


def _pieces(text: str) -> list[str]:
    """Text in pieces of LONGEST characters at most, cut behind a line's end if there is one in their second half."""
    pieces = []
    while len(text) > LONGEST:
        end = text.rfind("\n", LONGEST // 2, LONGEST) + 1 or LONGEST
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text]


def parts(source: Source, root: Path) -> list[Part]:
    """The parts of all files of a source, in the order of its patterns; a file that several match is read once."""
    if source.separator == "":
        raise ValueError("[data] separator must be some text or none, got ''")
    found: list[Part] = []
    for path in dict.fromkeys(chain.from_iterable(matching_files(pattern, root) for pattern in source.files)):
        size, step = path.stat().st_size, PART_BYTES
        if format_of(path) == "parquet":
            size, step = open_parquet(path, source.field).num_row_groups, 1
        elif is_compressed(path):
            step = size
        elif format_of(path) == "text" and source.separator is None:
            step = LONGEST if size <= LONGEST else LONGEST // 2  # a file is a document, or several
        for begin in range(0, max(1, size), max(1, step)):  # an empty file has a part too: messages name it
            found.append(Part(path, source.field, source.separator, begin, min(size, begin + step)))
    return found


def read_documents(patterns: Sequence[str | Path], separator: str | None, root: Path) -> list[str]:
    """The documents of all files that the patterns mean, in their order, in memory: see Source and Part.

    patterns: paths, folders or globs (`**` reaches into folders), relative to root.
    separator: what stands between the documents of plain text; None: a file is a document. Text behind the last
    separator is a document too. Raises ValueError for a pattern without a file, bytes that are no UTF-8, and where no
    text is left.
    """
    found = parts(Source([str(pattern) for pattern in patterns], separator=separator), root)
    documents = [document for part in found for document in part.documents()]
    if not documents:
        raise no_text(dict.fromkeys(part.path for part in found) or patterns)
    return documents


def no_text(files: Iterable[str | Path]) -> ValueError:
    return ValueError(f"[data] there must be some text in {', '.join(map(str, list(files)[:3]))}, got none")


def digest(document: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{document}".encode()).digest()


def is_heldout(digest: bytes, share: float) -> bool:
    """Whether the document of this digest belongs to the `share` that is held out."""
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_heldout(documents: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(training, held out), both in the given order. A hash of its text decides, so that equal documents stay together
    and neither the order nor the other documents matter; about `share` of them is held out."""
    if not 0 < share < 1:
        raise ValueError(f"[data] share must lie between 0 and 1, got {share}")
    training: list[str] = []
    heldout: list[str] = []
    for document in documents:
        (heldout if is_heldout(digest(document, seed), share) else training).append(document)
    return training, heldout
