"""Tokenizer: the tokenizer files of a Hugging Face folder, run by the `tokenizers` library."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from attnedit.checked import shown
from attnedit.data.chat_template import ChatTemplate
from attnedit.data.qwen_bpe import byte_level_bpe
from attnedit.data.rows import Array
from attnedit.data.tokenizer_limits import MOST_IDS, one_line, require_bounded, require_no_charsmap
from attnedit.foreign import parse_object, require_inside

DOCUMENTS_AT_A_TIME = 1024
CHARACTERS_AT_A_TIME = 1 << 21
MOST_IN_FRONT = 16  # tokens
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """tokenizer.json, or Qwen's vocab.json and merges.txt; tokenizer_config.json where there is one.

    A document begins with the tokens that the post-processor of tokenizer.json puts in front, or with bos_token where
    add_bos_token says so (a false there takes it away). Nothing is put behind a document.
    Raises OSError for missing files and ValueError for malformed ones.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder = Path(folder)
        single, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        self._files = [single] if single.is_file() else [vocabulary, merges]
        if not all(path.is_file() for path in self._files):
            raise FileNotFoundError(f"[tokenizer] {folder} must hold tokenizer.json, or vocab.json and merges.txt")
        if config.is_file():
            self._files.append(config)
        for path in self._files:
            require_inside(folder, path)
        self._config: dict[str, Any] = {}
        if config in self._files:
            self._config = parse_object(config.read_bytes(), f"[tokenizer] {config}")
        self._tokenizer = _loaded(single) if single.is_file() else byte_level_bpe(vocabulary, merges, self._config)
        # Cutting and padding are the caller's; files written for inference may hold either.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        require_bounded(self._tokenizer, self._files[0])
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.vocab_size > MOST_IDS:
            raise ValueError(
                f"[tokenizer] {self._files[0]} must number its tokens below {MOST_IDS}, got {self.vocab_size - 1}"
            )
        self._prefix = self._put_in_front()
        if len(self._prefix) > MOST_IN_FRONT or not all(token < self.vocab_size for token in self._prefix):
            raise ValueError(
                f"[tokenizer] {self._files[0]} must put at most {MOST_IN_FRONT} of its {self.vocab_size} tokens in "
                f"front of a text, got {len(self._prefix)}, the highest {max(self._prefix)}"
            )

    @property
    def bos_id(self) -> int | None:
        """The token that documents begin with, or would."""
        return self._prefix[0] if self._prefix else self._special("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._special("eos_token")

    @property
    def adds_bos(self) -> bool:
        """Whether encode_documents puts a token in front of every document."""
        return bool(self._prefix)

    @property
    def document_separator(self) -> int | None:
        """What `pack` puts between documents: none if they begin with BOS, else <|endoftext|> or the EOS token.

        Chat models keep <|endoftext|> as the end of a text and name the end of a turn as EOS.
        """
        if self.adds_bos:
            return None
        end: int | None = self._tokenizer.token_to_id(END_OF_TEXT)
        return self.eos_id if end is None else end

    def encode_documents(self, documents: Sequence[str]) -> list[Array]:
        """Each document's tokens, int32. A special token's name in the text becomes that token, as in transformers."""
        return list(self.encode_stream(documents))

    def encode_stream(self, documents: Iterable[str]) -> Iterator[Array]:
        """The same one by one, in little memory: while some are taken, the library encodes the next on all cores."""

        def encode(part: list[str]) -> list[Any]:
            with one_line("a document cannot be encoded"):
                encodings: list[Any] = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            return encodings

        with ThreadPoolExecutor(1) as worker:
            waiting: Future[list[Any]] | None = None
            for part in chain(_batched(documents), [None]):
                following = None if part is None else worker.submit(encode, part)
                if waiting is not None:
                    for encoding in waiting.result():
                        yield np.array(self._prefix + encoding.ids, np.int32)
                waiting = following

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **more: Any
    ) -> Array:
        """A conversation's tokens, int32 [T], as the model's chat template writes it: ChatTemplate.render says how.

        Nothing is put in front: a template writes its own beginning.
        """
        text = self._chat_template.render(messages, add_generation_prompt, **more)
        with one_line("a conversation cannot be encoded"):
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return ChatTemplate(self._folder, self._config)

    def token_id(self, token: str) -> int:
        """The id of a token by its text; ValueError where the vocabulary has none."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"[tokenizer] token {shown(token)} is not in the vocabulary")
        return found

    def decode(self, ids: Iterable[int] | Array) -> str:
        """The text of some tokens, special ones left out."""
        with one_line("tokens cannot be decoded"):
            text: str = self._tokenizer.decode([int(token) for token in ids])
        return text

    def fingerprint(self) -> str:
        """SHA-256 over the files that decide about the tokens."""
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()

    def _put_in_front(self) -> list[int]:
        """The tokens that every document begins with."""
        with one_line(f"{self._files[0]} cannot encode a letter"):
            probe = self._tokenizer.encode("a")
        own = probe.special_tokens_mask.index(0) if 0 in probe.special_tokens_mask else 0
        prefix: list[int] = probe.ids[:own]
        bos = self._special("bos_token")
        wanted = self._config.get("add_bos_token")
        if wanted and bos is None:
            raise ValueError(f"[tokenizer] add_bos_token needs a bos_token, got {shown(self._config.get('bos_token'))}")
        if bos is not None and wanted is True and prefix[:1] != [bos]:
            return [bos, *prefix]
        if bos is not None and wanted is False and prefix[:1] == [bos]:
            return prefix[1:]
        return prefix

    def _special(self, key: str) -> int | None:
        """The id of tokenizer_config.json's token, which is text or an object with its text."""
        token = self._config.get(key)
        if isinstance(token, dict):
            token = token.get("content")
        if not isinstance(token, str):
            return None
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"[tokenizer] {key} {shown(token)} is not in the vocabulary")
        return found


def _batched(documents: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for document in documents:
        part.append(document)
        characters += len(document)
        if len(part) == DOCUMENTS_AT_A_TIME or characters >= CHARACTERS_AT_A_TIME:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _loaded(path: Path) -> Any:
    require_no_charsmap(path)
    with one_line(f"{path} cannot be read"):
        return tokenizers.Tokenizer.from_file(str(path))
