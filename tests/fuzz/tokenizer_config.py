"""data/qwen_bpe.py: vocab.json, merges.txt and tokenizer_config.json, which one input holds by their names."""

import json
from pathlib import Path

from fuzz.mutate import json_text as mutated

from attnedit.data import Tokenizer
from attnedit.foreign import parse_object

__all__ = ["mutated", "one_input", "seeds"]


def seeds() -> list[bytes]:
    token = {"content": "<|im_end|>", "lstrip": False, "special": True}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"3": token}, "eos_token": "<|im_end|>"}
    files = {"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": "#version: 0.2\na b\n"}
    more = {"bos_token": {"content": "<|im_end|>"}, "add_bos_token": True}
    return [json.dumps(files | {"tokenizer_config.json": c}).encode() for c in (config, config | more)]


def one_input(data: bytes, folder: Path) -> None:
    files = parse_object(data, "input")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        value = files.get(name)
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    tokenizer = Tokenizer(folder)
    tokenizer.decode(tokenizer.encode_documents(["ab<|im_end|>"])[0])
    assert tokenizer.document_separator is None or tokenizer.document_separator < tokenizer.vocab_size
