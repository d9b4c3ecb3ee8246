"""Qwen's tokenizer from its older form: vocab.json and merges.txt, special tokens in tokenizer_config.json."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from attnedit.checked import shown
from attnedit.data.tokenizer_limits import one_line

# How Qwen2 and Qwen3 cut text before merging (transformers, Qwen2Tokenizer): one digit a piece.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def byte_level_bpe(vocabulary: Path, merges: Path, config: dict[str, Any]) -> Any:
    """A tokenizers.Tokenizer. config must name Qwen's class, because the files do not say how to cut text."""
    kind = config.get("tokenizer_class")
    if kind not in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        raise ValueError(
            f"[tokenizer] {vocabulary.parent} must hold tokenizer.json; vocab.json and merges.txt do for a "
            f"tokenizer_class Qwen2Tokenizer only, got {shown(kind)}"
        )
    with one_line(f"{vocabulary} and {merges} cannot be read"):
        model = BPE.from_file(str(vocabulary), str(merges))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, config)
    return tokenizer


def _add(tokenizer: Any, config: dict[str, Any]) -> None:
    """The added tokens, under the ids that the config gives them."""
    declared = config.get("added_tokens_decoder", {})
    try:
        added = sorted((int(number), token) for number, token in declared.items())
        tokens = [
            tokenizers.AddedToken(token["content"], **{key: bool(token.get(key, False)) for key in FLAGS})
            for _, token in added
        ]
        tokenizer.add_tokens(tokens)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("[tokenizer] added_tokens_decoder must map ids to tokens with a content") from None
    for (number, _), token in zip(added, tokens, strict=True):
        if tokenizer.token_to_id(token.content) != number:
            raise ValueError(
                f"[tokenizer] {shown(token.content)} must have id {shown(number)}, "
                f"got {tokenizer.token_to_id(token.content)}"
            )
