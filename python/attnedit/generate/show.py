"""Generation on a terminal."""

import sys
from collections.abc import Iterable, Sequence

from attnedit.generate.generate import Piece


def show(pieces: Iterable[Piece], beginnings: Sequence[str]) -> None:
    """Writes each beginning and what follows it: one sequence as it comes, several one after the other at the end.

    Whatever stops the pieces, what came before is written.
    """
    texts = list(beginnings)
    alone = len(texts) == 1
    try:
        if alone:
            _write(texts[0])
        for piece in pieces:
            texts[piece.sequence] += piece.text
            if alone:
                _write(piece.text)
    finally:
        _write("\n" if alone else "".join(f"[{i}] {text}\n" for i, text in enumerate(texts)))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
