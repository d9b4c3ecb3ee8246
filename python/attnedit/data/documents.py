"""Text files -> documents, and which of them are held out."""

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def read_documents(patterns: Sequence[str | Path], separator: str | None, root: Path) -> list[str]:
    """The documents of all files that match the patterns, in the order of the patterns; under one, sorted by path.

    patterns: paths or globs (`**` reaches into folders), relative to root. A file that several match is read once.
    separator: what stands between the documents of a file; None: a file is a document. Text behind the last separator
    is a document too. Line ends become \\n, white space around a document goes, and so do empty documents.
    Raises ValueError for a pattern without a file, bytes that are no UTF-8, and where no text is left.
    """
    if separator == "":
        raise ValueError("[data] separator must be some text or none, got ''")
    documents: list[str] = []
    files = dict.fromkeys(path for pattern in patterns for path in _files(pattern, root))
    for path in files:
        text = _text(path)
        parts = [text] if separator is None else text.split(separator)
        documents += [part.strip() for part in parts if part.strip()]
    if not documents:
        raise ValueError(f"[data] there must be some text in {', '.join(map(str, list(files)[:3]))}, got none")
    return documents


def _files(pattern: str | Path, root: Path) -> list[Path]:
    asked = os.path.expanduser(pattern)
    # A path with brackets in it is also a glob, which would not match itself.
    names = [asked] if (root / asked).is_file() else sorted(glob.glob(asked, root_dir=root, recursive=True))
    files = [root / name for name in names if (root / name).is_file()]
    if not files:
        raise ValueError(f"[data] a file must match {str(root / asked)!r}, got none")
    return files


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"[data] {path} must be UTF-8, byte {error.start} ({data[error.start]:#04x}) is not") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def split_heldout(documents: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(training, held out), both in the given order. A hash of its text decides, so that equal documents stay together
    and neither the order nor the other documents matter; about `share` of them is held out."""
    if not 0 < share < 1:
        raise ValueError(f"[data] share must lie between 0 and 1, got {share}")
    training: list[str] = []
    heldout: list[str] = []
    for document in documents:
        digest = hashlib.sha256(f"{seed}\n{document}".encode()).digest()
        (heldout if int.from_bytes(digest[:8], "big") < share * 2**64 else training).append(document)
    return training, heldout
