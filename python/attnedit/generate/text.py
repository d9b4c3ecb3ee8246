"""Tokens -> text as it comes: whole characters only, and nothing from a stop string on."""

from collections.abc import Sequence

from attnedit.data import Tokenizer
from attnedit.tensor import Array

CONTEXT = 8  # tokens decoded along, since some tokenizers write a word's space only behind another word
LONGEST = 4  # bytes of a UTF-8 character, each of which may be a token
BROKEN = "\ufffd"  # what the bytes of an incomplete character decode to


class TextStream:
    """The text behind a prompt. What may still become a stop string or a character is held back.

    tokenizers' own DecodeStream raises where bytes are not UTF-8, which a model is free to write.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Array, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._shown = prompt[-CONTEXT:].tolist()
        self._held: list[int] = []
        self._stops = stops
        self._pending = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain now; sets `stopped` where it ends at a stop string."""
        self._held.append(token)
        return self._released(self._decoded(last=False), last=False)

    def finish(self) -> str:
        """The rest."""
        return self._released(self._decoded(last=True), last=True)

    def _decoded(self, last: bool) -> str:
        before, whole = self._tokenizer.decode(self._shown), self._tokenizer.decode(self._shown + self._held)
        if whole.endswith(BROKEN) and len(self._held) < LONGEST and not last:
            return ""
        if not whole.startswith(before):  # bytes that were characters by themselves are none with those behind them
            whole, before = self._tokenizer.decode(self._held), ""
        self._shown = (self._shown + self._held)[-CONTEXT:]
        self._held = []
        return whole[len(before) :]

    def _released(self, piece: str, last: bool) -> str:
        text, self._pending = self._pending + piece, ""
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)]
        if not last:
            begun = (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
            keep = len(text) - max(begun, default=0)
            text, self._pending = text[:keep], text[keep:]
        return text
