"""The tokenizer against published ids, and how documents begin."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from attnedit.data import Tokenizer, read_documents

WORDS = ["<s>", "</s>", "a", "b", "<|endoftext|>"]


def made(folder: Path, config: dict[str, Any] | None = None, front: str | None = None, behind: str = "") -> Tokenizer:
    """A tokenizer of letters; its post-processor puts front and behind around a text."""
    tokenizer = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(WORDS)}, []))
    tokenizer.add_special_tokens(["<s>", "</s>", "<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if front is not None:
        known = [(word, i) for i, word in enumerate(WORDS)]
        tokenizer.post_processor = TemplateProcessing(single=f"{front} $A {behind}".strip(), special_tokens=known)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_documents([text])[0].tolist()


BOS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}


@pytest.mark.parametrize(
    ("config", "front", "start"),
    [
        (None, None, []),
        (None, "<s>", [0]),
        (BOS, None, []),
        (BOS, "<s>", [0]),
        (BOS | {"add_bos_token": True}, None, [0]),
        (BOS | {"add_bos_token": True}, "<s>", [0]),
        (BOS | {"add_bos_token": False}, "<s>", []),
        (BOS | {"add_bos_token": None}, "<s>", [0]),
        ({"add_bos_token": False}, "<|endoftext|>", [4]),
    ],
)
def test_documents_begin_as_the_files_say(
    tmp_path: Path, config: dict[str, Any] | None, front: str | None, start: list[int]
) -> None:
    tokenizer = made(tmp_path / "t", config, front)
    assert ids(tokenizer, "abba") == [*start, 2, 3, 3, 2]  # neither cut nor padded
    assert ids(tokenizer, "") == start
    assert tokenizer.adds_bos == bool(start)
    assert tokenizer.document_separator == (None if start else 4)
    assert tokenizer.bos_id == (start[0] if start else 0 if config else None)
    assert tokenizer.eos_id == (1 if config and "eos_token" in config else None)


def test_nothing_is_put_behind(tmp_path: Path) -> None:
    assert ids(made(tmp_path / "t", BOS, "<s>", "</s>"), "ab") == [0, 2, 3]


def test_many_documents_keep_their_order(tmp_path: Path) -> None:
    tokenizer = made(tmp_path / "t")
    documents = ["a" * (i % 5) + "b" for i in range(2500)]
    encoded = tokenizer.encode_documents(documents)
    assert [tokenizer.decode(row) for row in encoded] == documents
    assert all(row.dtype == np.int32 for row in encoded) and tokenizer.encode_documents([]) == []


def test_decoding_leaves_special_tokens_out(tmp_path: Path) -> None:
    assert made(tmp_path / "t").decode(np.array([0, 2, 3, 1])) == "ab"


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    prints = [made(tmp_path / str(i), *how).fingerprint() for i, how in enumerate([(), (BOS,), (None, "<s>"), ()])]
    assert prints[0] == prints[3] and len(set(prints)) == 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json cannot be read"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json must be JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json must be a JSON object, got list"),
        ("tokenizer_config.json", '{"bos_token": "<bos>"}', "bos_token '<bos>' is not in the vocabulary"),
        ("tokenizer_config.json", '{"add_bos_token": true}', "add_bos_token needs a bos_token, got None"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    made(tmp_path / "t", BOS)
    (tmp_path / "t" / name).write_text(text)
    with pytest.raises(ValueError) as refused:
        Tokenizer(tmp_path / "t")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"must hold tokenizer\.json, or vocab\.json and merges\.txt"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("case", ["greedy200", "prompt64"])
def test_stories260k_gives_the_ids_of_llama2c(material: Path, case: str) -> None:
    tokenizer = Tokenizer(material / "models/stories260K")
    tokens = json.loads((material / f"fixtures/stories260K_{case}.tokens.json").read_text())
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos, tokenizer.vocab_size) == (1, 2, True, 512)
    assert ids(tokenizer, tokenizer.decode(tokens)) == tokens


def qwen(material: Path, folder: Path, version: str) -> Path:
    """Qwen3 shares Qwen2's vocabulary and merges and adds special tokens."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(material / "tokenizers/qwen2" / name, folder / name)
    shutil.copyfile(material / f"tokenizers/{version}/tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


@pytest.mark.parametrize(("version", "size", "eos"), [("qwen2", 151646, 151643), ("qwen3", 151669, 151645)])
def test_qwen_gives_the_published_ids(material: Path, tmp_path: Path, version: str, size: int, eos: int) -> None:
    tokenizer = Tokenizer(qwen(material, tmp_path, version))
    for case in json.loads((material / "fixtures/qwen_tokenizer_golden.json").read_text()):
        assert ids(tokenizer, case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["text"]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.bos_id, tokenizer.adds_bos) == (size, eos, None, False)
    assert tokenizer.document_separator == 151643
    assert ids(tokenizer, "<|im_start|>2024") == [151644, 17, 15, 17, 19]
    if version == "qwen3":
        assert ids(tokenizer, "<think>") == [151667]


def test_qwen_round_trips_real_text(material: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(qwen(material, tmp_path, "qwen3"))
    for name in ("rust_book_zh.md", "thealgorithms_python.py.txt"):
        text = read_documents([name], None, material / "corpora")[0][:100_000]
        assert tokenizer.decode(tokenizer.encode_documents([text])[0]) == text


def test_vocabulary_and_merges_without_qwens_class_are_refused(material: Path, tmp_path: Path) -> None:
    """GPT-2's files look the same and cut text in another way."""
    folder = qwen(material, tmp_path, "qwen2")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    with pytest.raises(ValueError, match="tokenizer_class Qwen2Tokenizer only, got 'GPT2Tokenizer'"):
        Tokenizer(folder)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"151700": {"content": "<x>"}}, "'<x>' must have id 151700, got 151643"),
        ({"one": {}}, "must map ids"),
        ([], "must map"),
    ],
)
def test_added_tokens_must_get_their_ids(material: Path, tmp_path: Path, added: object, message: str) -> None:
    folder = qwen(material, tmp_path, "qwen2")
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        Tokenizer(folder)


def test_minimind_puts_nothing_in_front(material: Path) -> None:
    tokenizer = Tokenizer(material / "tokenizers/minimind")
    assert not tokenizer.adds_bos and tokenizer.vocab_size == 6400
    assert tokenizer.document_separator == 0
    assert tokenizer.decode(ids(tokenizer, "你好, world")) == "你好, world"


def hostile(folder: Path, **parts: Any) -> Path:
    """tokenizer.json with some of its parts replaced; `vocab` is the model's."""
    made(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"]["vocab"] = parts.pop("vocab", raw["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(raw | parts))
    return folder


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        # 4 GiB are asked for and, where there are none, the process ends.
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "plain steps, got Precompiled"),
        ({"normalizer": {"precompiled_charsmap": "/////w=="}}, "in plain steps, got Precompiled"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "cannot encode a letter: chunk size must"),
        ({"normalizer": {"type": "Sequence", "normalizers": [replace("aa")] * 40}}, "as long, got 2199023255552"),
        ({"normalizer": {"type": "Sequence", "normalizers": [replace("a", Regex="x*")] * 7}}, "long, got 256"),
        ({"decoder": {"type": "Sequence", "decoders": [replace("aaa")] * 4}}, "decoder may make a text at most 64"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}] * 9}},
         "at most 64 times as long, got 512"),
        ({"vocab": {"a": 2**32 - 1}}, "must number its tokens below 1048576, got 4294967295"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 4_000_000_000]}},
         "tokens in front of a text, got 1, the highest 4000000000"),
        ({"post_processor": {"type": "TemplateProcessing", "pair": [],
                             "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 17
                             + [{"Sequence": {"id": "A", "type_id": 0}}],
                             "special_tokens": {"a": {"id": "a", "ids": [2], "tokens": ["a"]}}}},
         "at most 16 of its 5 tokens in front of a text, got 17"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_takes_everything_is_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^\[tokenizer\] .*" + message) as refused:
        Tokenizer(hostile(tmp_path / "t", **parts))
    assert "\n" not in str(refused.value)


def test_a_charsmap_under_an_escaped_name_is_found(tmp_path: Path) -> None:
    path = hostile(tmp_path / "t", normalizer={"precompiled_charsmap": "/////w=="}) / "tokenizer.json"
    path.write_text(path.read_text().replace("precompiled", r"\u0070r\u0065compiled"))
    with pytest.raises(ValueError, match="got Precompiled"):
        Tokenizer(tmp_path / "t")


def test_a_charsmap_under_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = hostile(tmp_path / "t", normalizer=None) / "tokenizer.json"
    charsmap = '"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "normalizer": null'
    path.write_text(path.read_text().replace('"normalizer": null', charsmap))
    with pytest.raises(ValueError, match=r"^\[tokenizer\] .*tokenizer\.json names 'normalizer' twice$"):
        Tokenizer(tmp_path / "t")


QWEN = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ messages[0].content }}"}


def folder_with(folder: Path, name: str) -> Path:
    """A tokenizer in the form that has a file of this name."""
    made(folder, QWEN)
    if name in ("vocab.json", "merges.txt"):
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    if name == "chat_template.jinja":
        (folder / name).write_text("{{ messages[0].content }}")
    return folder


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_tokenizers_file_that_is_a_link_out_of_its_folder_is_not_read(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path / "snapshots/0123", name)
    said = [{"role": "user", "content": "ab"}]
    assert Tokenizer(folder).apply_chat_template(said).tolist() == [2, 3]
    blobs = tmp_path / "blobs"  # the Hugging Face cache, which is one folder with its snapshots
    blobs.mkdir()
    (folder / name).rename(blobs / "f00")
    (folder / name).symlink_to("../../blobs/f00")
    (tmp_path / "named").symlink_to(folder)
    assert Tokenizer(tmp_path / "named").apply_chat_template(said).tolist() == [2, 3]
    (blobs / "f00").rename(tmp_path / "mine")
    for outside in (tmp_path / "mine", Path("/etc/passwd")):
        (folder / name).unlink()
        (folder / name).symlink_to(outside)
        with pytest.raises(ValueError) as refused:
            Tokenizer(folder).apply_chat_template(said)
        assert str(refused.value).endswith(f"{name} must lie in its folder, it is a link to {outside}")


@pytest.mark.parametrize("written", ['{"x": 1, "x": 2}', '{"x": ' + "1" * 5000 + "}", '{"x": "a\tb"}', "[1]", "\xff"])
def test_a_config_that_is_no_object_is_told_in_our_words(tmp_path: Path, written: str) -> None:
    made(tmp_path / "t")
    path = tmp_path / "t/tokenizer_config.json"
    path.write_text(written, "latin-1")
    with pytest.raises(ValueError) as refused:
        Tokenizer(tmp_path / "t")
    assert str(refused.value).startswith(f"[tokenizer] {path} ")
    assert "line 1" not in str(refused.value) and "set_int_max_str_digits" not in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [{"bos_token": "x" * 5000}, {"add_bos_token": True, "bos_token": ["x" * 5000]}, {"tokenizer_class": ["x" * 5000]}],
)
def test_long_values_are_told_in_short(tmp_path: Path, config: dict[str, Any]) -> None:
    made(tmp_path / "t")
    if "tokenizer_class" in config:
        (tmp_path / "t/tokenizer.json").rename(tmp_path / "t/vocab.json")
        (tmp_path / "t/merges.txt").touch()
    (tmp_path / "t/tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as refused:
        Tokenizer(tmp_path / "t")
    assert "xxx..." in str(refused.value) and len(str(refused.value)) < 500


def test_what_the_library_panics_on_is_told_in_a_line(tmp_path: Path) -> None:
    regex = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    endless = Tokenizer(hostile(tmp_path / "a", pre_tokenizer=regex))
    with pytest.raises(ValueError, match=r"a document cannot be encoded: Onig: Regex search error: retry-limit"):
        endless.encode_documents(["x" * 5000])
    strip = Tokenizer(hostile(tmp_path / "b", decoder={"type": "Strip", "content": "a", "start": 5, "stop": 9}))
    with pytest.raises(ValueError, match="tokens cannot be decoded: index out of bounds"):
        strip.decode([2, 3])
    with pytest.raises(ValueError, match="a document cannot be encoded"):
        made(tmp_path / "c").encode_documents(["\ud800"])
    with pytest.raises(ValueError, match=r"tokenizer_config\.json must be Unicode, got '\\ud800' by itself"):
        made(tmp_path / "d", {"bos_token": "\ud800"})
