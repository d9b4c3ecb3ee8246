"""data/tokenizer.py: a tokenizer.json, which encodes and decodes; the library itself is not instrumented."""

import json
from pathlib import Path
from typing import Any

from fuzz.mutate import json_text as mutated
from tokenizers import Tokenizer as Library
from tokenizers import models

from attnedit.data import Tokenizer

__all__ = ["mutated", "one_input", "seeds"]
WORDS = {"<s>": 0, "a": 1, "b": 2, "ab": 3, "<|endoftext|>": 4}
STEPS: list[dict[str, Any]] = [
    {},
    {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "a"}, {"type": "Replace", "pattern": {"String": " "}, "content": "a"}]}},
    {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "a+|b"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
     "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    {"post_processor": {"type": "TemplateProcessing", "pair": [], "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
     "decoder": {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}},
    {"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
     "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "<s>"}},
]  # fmt: skip


def seeds() -> list[bytes]:
    library = Library(models.BPE(WORDS, [("a", "b")]))
    library.add_special_tokens(["<s>", "<|endoftext|>"])
    raw = json.loads(library.to_str())
    return [json.dumps(raw | steps).encode() for steps in STEPS]


def one_input(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    tokenizer = Tokenizer(folder)
    rows = tokenizer.encode_documents(["ab ba", "<s>ä", ""])
    assert all(0 <= token < tokenizer.vocab_size for row in rows for token in row.tolist())
    assert all(len(tokenizer.decode(row)) < 100_000 for row in rows)
