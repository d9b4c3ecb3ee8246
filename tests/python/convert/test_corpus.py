"""The recipe's text -> rows: the same however the tokens were made, and none that is held out."""

import json
import os
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
import yaml
from tiny import words, write_teacher

from attnedit.convert import read_recipe, token_cache
from attnedit.convert import texts as texts_module
from attnedit.convert.corpus import FILES, Corpus, open_corpus
from attnedit.convert.heldout import Spilled, look
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import find_texts
from attnedit.data import Source, Tokenizer, fingerprint

LENGTH = 32


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_teacher(tmp_path_factory.mktemp("teacher") / "teacher", words(20, 0)))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "SHARD_CHARACTERS", 2000)
    monkeypatch.setattr("attnedit.data.documents.PART_BYTES", 700)


def recipe(folder: Path, **data: Any) -> Recipe:
    path = folder / "recipe.yaml"
    values = {
        "teacher": "t", "target": {"attention": "mla", "kv_lora_rank": 8}, "run": "run",
        "data": {"train": ["corpus.txt"], "separator": "\n\n", "sequence_length": LENGTH} | data,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return read_recipe(path)


def opened(made: Recipe, tokenizer: Tokenizer, folder: Path) -> Any:
    return open_corpus(made, find_texts(made), tokenizer, 300, folder)


def documents(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    """The texts in the rows of the first epoch that are there from their first to their last token."""
    count = corpus.train.available(10**6)
    whole = []
    for tokens, starts in zip(corpus.train[:count], corpus.train.document_starts(slice(0, count)), strict=True):
        for begin in np.unique(starts)[1:-1]:
            whole.append(tokenizer.decode(tokens[starts == begin]))
    return whole


def test_rows_hold_the_training_documents_and_no_others(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = [f"d{i} " + " and" * (i % 5) for i in range(400)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    made = recipe(tmp_path, heldout_share=0.2)
    with opened(made, tokenizer, tmp_path / "tokens") as corpus:
        heldout = {tokenizer.decode(row).strip() for row in corpus.heldout}
        assert 40 < len(heldout) < 120 and corpus.warning is None
        assert corpus.heldout_bytes == sum(len(tokenizer.decode(row).encode()) for row in corpus.heldout)
        seen = [text.strip() for text in documents(corpus, tokenizer)]
        assert not heldout & set(seen) and len(set(seen)) > 120
        assert set(seen) <= {text.strip() for text in texts}
    with opened(replace(made, seed=1), tokenizer, tmp_path / "tokens") as other:
        assert {tokenizer.decode(row).strip() for row in other.heldout} != heldout
    assert len(list((tmp_path / "tokens").glob("*/heldout.safetensors"))) == 1  # another text's tokens go


def test_a_continued_run_reads_the_same_rows_from_the_disk(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "corpus.txt").write_text(words(200, 1))
    made = recipe(tmp_path)
    with opened(made, tokenizer, tmp_path / "calm") as corpus:
        wanted = corpus.train[:400]
        starts = corpus.train.document_starts(slice(0, 400))
    shards = sorted(path.name for path in (tmp_path / "calm").rglob("0*.safetensors"))
    assert len(shards) > 10
    for asked in (3, 40, 41, 200):  # as far as each killed run came
        with opened(made, tokenizer, tmp_path / "killed") as corpus:
            assert np.array_equal(corpus.train[asked], wanted[asked])
    with opened(made, tokenizer, tmp_path / "killed") as corpus:
        assert np.array_equal(corpus.train[:400], wanted)
        assert np.array_equal(corpus.train.document_starts(slice(0, 400)), starts)
    again = sorted(path for path in (tmp_path / "killed").rglob("0*.safetensors"))
    assert [path.name for path in again] == shards
    assert [path.read_bytes() for path in again] == [
        path.read_bytes() for path in sorted((tmp_path / "calm").rglob("0*.safetensors"))
    ]


def test_training_begins_before_all_is_tokenised(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "corpus.txt").write_text(words(400, 1))
    with opened(recipe(tmp_path), tokenizer, tmp_path / "tokens") as corpus:
        assert corpus.train[:2].shape == (2, LENGTH)
    assert 1 <= len(list((tmp_path / "tokens").rglob("0*.safetensors"))) <= 2  # of more than twenty
    assert not list((tmp_path / "tokens").rglob(token_cache.COMPLETE))


def test_only_the_first_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "corpus.txt").write_text(words(60, 1))
    (tmp_path / "held.txt").write_text(words(9, 2))
    made = recipe(tmp_path, heldout=["held.txt"], train_documents=20, heldout_documents=2)
    with opened(made, tokenizer, tmp_path / "tokens") as corpus:
        count = corpus.train.available(10**6)
        expected = sum(len(x) for x in tokenizer.encode_documents(words(60, 1).split("\n\n")[:20]))
        assert expected - count * LENGTH < LENGTH * 10 and len(corpus.heldout) == 2
        last = tokenizer.encode_documents(words(9, 2).split("\n\n")[-2:])
        assert all(np.array_equal(row, whole[:LENGTH]) for row, whole in zip(corpus.heldout, last, strict=True))


def test_sources_of_many_kinds_by_weight(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose/a.txt").write_text("river " * 3000)
    (tmp_path / "code.jsonl").write_text("\n".join(json.dumps({"code": "stone " * 30}) for _ in range(90)))
    train = [{"files": ["prose"], "weight": 1}, {"files": ["code.jsonl"], "field": "code", "weight": 3}]
    (tmp_path / "held.txt").write_text(words(3, 0))
    made = recipe(tmp_path, train=train, heldout=["held.txt"])
    assert made.data.train[1] == Source([str(tmp_path / "code.jsonl")], "code", None, 3.0)
    with opened(made, tokenizer, tmp_path / "tokens") as corpus:
        stones = ["stone" in tokenizer.decode(row) for row in corpus.train[:1000]]
        assert sum(stones) == 750
    del train[0]["weight"]
    with pytest.raises(ValueError, match="weight must be given for every source or for none, got 1 of 2"):
        find_texts(recipe(tmp_path, train=train))


def test_the_fingerprint_knows_the_text_and_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(words(9, 1))
    (tmp_path / "b.jsonl").write_text('{"text": "a", "b": "c"}')
    asked: list[dict[str, Any]] = [
        {}, {"heldout": ["corpus.txt"]}, {"train": ["corpus.txt", "b.jsonl"]}, {"train": ["b.jsonl", "corpus.txt"]},
        {"train": ["corpus.txt", {"files": ["b.jsonl"], "field": "b"}]},
        {"train": [{"files": ["corpus.txt"], "weight": 1}, {"files": ["b.jsonl"], "weight": 2}]},
        {"train": [{"files": ["corpus.txt"], "weight": 1}, {"files": ["b.jsonl"], "weight": 3}]},
    ]  # fmt: skip
    made = [find_texts(recipe(tmp_path, **data)).fingerprint for data in asked]
    assert len(set(made)) == len(asked)
    (tmp_path / "moved.txt").write_text(words(9, 1))
    assert find_texts(recipe(tmp_path, train=["moved.txt"])).fingerprint == made[0]
    (tmp_path / "corpus.txt").write_text(words(9, 1).replace("river", "River", 1))
    assert find_texts(recipe(tmp_path)).fingerprint != made[0]


def test_a_file_is_hashed_again_only_where_it_was_touched(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(paths: list[Path]) -> str:
        hashed.append(paths[0].name)
        return fingerprint(paths)

    def found(wait: int) -> tuple[str, list[str]]:
        """The text's fingerprint as a start so many seconds later finds it, and what it read."""
        hashed.clear()
        now = time.time_ns() + wait * 10**9
        monkeypatch.setattr("attnedit.convert.texts.time.time_ns", lambda: now)
        texts = find_texts(made, tmp_path / "tokens" / FILES)
        monkeypatch.undo()
        monkeypatch.setattr("attnedit.convert.texts.fingerprint", counted)
        with open_corpus(made, texts, tokenizer, 300, tmp_path / "tokens"):
            return texts.fingerprint, hashed.copy()

    monkeypatch.setattr("attnedit.convert.texts.fingerprint", counted)
    (tmp_path / "a.txt").write_text(words(9, 1))
    (tmp_path / "b.txt").write_text(words(9, 2))
    made = recipe(tmp_path, train=["a.txt", "b.txt"], heldout_share=0.3)
    first, read = found(0)
    assert read == ["a.txt", "b.txt"]
    assert found(0)[1] == ["a.txt", "b.txt"]  # just written: somebody may still write within the same tick
    assert found(60) == (first, ["a.txt", "b.txt"]) and found(60) == (first, [])
    times = (tmp_path / "b.txt").stat()
    os.utime(tmp_path / "b.txt")
    assert found(60) == (first, ["b.txt"]) and found(60) == (first, [])
    changed = words(9, 2).replace("river", "rover", 1)
    (tmp_path / "b.txt").write_text(changed)  # as long, and as old as before
    os.utime(tmp_path / "b.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    other, read = found(60)
    assert other != first and read == ["b.txt"]
    kept = tmp_path / "tokens" / FILES
    kept.write_bytes(kept.read_bytes().replace(b"a", b"b", 1))
    assert found(60) == (other, ["a.txt", "b.txt"])  # damaged, it is of no use


def test_the_files_that_differ_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def found() -> str:
        return find_texts(made, tmp_path / "tokens" / FILES).changes.replace(f"{tmp_path}/", "")

    for name in "abcdef":
        (tmp_path / f"{name}.txt").write_text(words(9, ord(name)))
    made = recipe(tmp_path, train=["?.txt"], heldout_share=0.3)
    assert found() == ""
    with open_corpus(made, find_texts(made), tokenizer, 300, tmp_path / "tokens"):
        pass
    (tmp_path / "a.txt").rename(tmp_path / "x.txt")
    assert found() == "the files are the same, but not their order, field, separator or weight"
    (tmp_path / "b.txt").write_text("other")
    assert found() == "b.txt differs"
    (tmp_path / "c.txt").unlink()
    (tmp_path / "y.txt").write_text(words(9, ord("d")))  # there twice now
    assert found() == "b.txt differs, y.txt is new, c.txt is gone"
    (tmp_path / "e.txt").unlink()
    (tmp_path / "f.txt").unlink()
    assert found() == "b.txt differs, y.txt is new, c.txt is gone and 2 more"


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-600, os.SEEK_END)
        file.write(b"other text")


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes().replace(b"river", b"rover"))
    path.with_suffix(".new").rename(path)


CHANGES = [in_place, replaced, lambda path: os.truncate(path, 20_000), lambda path: os.truncate(path, 0), Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_text_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, kind: str, change: Callable[[Path], None]
) -> None:
    """By whoever looks through it, and by whoever makes a shard of it; what was made before stays."""
    path = tmp_path / f"corpus.{kind}"
    texts = words(400, 1).split("\n\n")
    path.write_text("\n\n".join(texts) if kind == "txt" else "\n".join(json.dumps({"text": text}) for text in texts))
    before = path.read_bytes()
    made = recipe(tmp_path, train=[path.name])
    said = rf"\[data\] {path} was (changed|removed) while the run read it; start again"
    with opened(made, tokenizer, tmp_path / "calm") as corpus:
        wanted = corpus.train[:400]

    def at_part(done: int, of: int) -> None:
        if done == 3:
            change(path)

    found = find_texts(made)
    with pytest.raises(ValueError, match=said), open_corpus(made, found, tokenizer, 300, tmp_path / "x", at_part):
        pass
    assert not [other for other in (tmp_path / "x").glob("*/*") if not other.name.startswith(".")]
    path.write_bytes(before)
    with opened(made, tokenizer, tmp_path / "x") as corpus:
        corpus.train[:1]
        change(path)
        with pytest.raises(ValueError, match=said):
            corpus.train[:400]
    kept = sorted((tmp_path / "x").rglob("0*.safetensors"))
    assert 1 <= len(kept) <= 2  # the first, and the one that may have been made before the change
    path.write_bytes(before)
    with opened(made, tokenizer, tmp_path / "x") as corpus:
        assert np.array_equal(corpus.train[:400], wanted)


@pytest.mark.parametrize("change", CHANGES)
def test_text_that_changes_while_it_is_hashed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    def slow(paths: list[Path]) -> str:
        found = fingerprint(paths)
        change(paths[0])
        return found

    path = tmp_path / "corpus.txt"
    path.write_text(words(200, 1))
    monkeypatch.setattr("attnedit.convert.texts.fingerprint", slow)
    with pytest.raises(ValueError, match=f"{path} was (changed|removed) while the run read it"):
        find_texts(recipe(tmp_path))
    monkeypatch.undo()
    path.write_text(words(200, 1))
    real = texts_module._stamp
    monkeypatch.setattr(texts_module, "_stamp", lambda path: (path.write_text(words(201, 1)), real(path))[1])
    with pytest.raises(ValueError, match=f"{path} was changed while the run read it"):
        find_texts(recipe(tmp_path))


def test_documents_that_are_trained_on_too_are_counted(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"document {i}" for i in range(3000)))
    (tmp_path / "held.txt").write_text("\n\n".join(f"document {i}" for i in range(2000, 6000)))
    for last, both in ((None, 1000), (3500, 500), (2000, 0)):
        made = recipe(tmp_path, heldout=["held.txt"], heldout_documents=last)
        with Spilled(tmp_path / "x") as held:
            seen = Mock()
            assert look(made, find_texts(made), held, seen) == (both, [3000]) and len(held) == 4000
            of = seen.call_args.args[1]
            assert of > 2 and seen.mock_calls == [call(i + 1, of) for i in range(of)]


def test_of_a_share_not_more_are_evaluated_than_tell(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = "\n\n".join(f"document {i}" for i in range(2000))
    (tmp_path / "corpus.txt").write_text(text)
    (tmp_path / "held.txt").write_text(text)
    for asked, count in (({}, 200), ({"heldout_documents": 300}, 300), ({"heldout": ["held.txt"]}, 2000)):
        made = recipe(tmp_path, heldout_share=0.5, **asked)
        with opened(made, tokenizer, tmp_path / "tokens") as corpus:
            assert len(corpus.heldout) == count


def test_held_out_documents_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "held.txt").open("wb") as file:  # 30 MiB
        for _ in range(60):
            file.write(rng.integers(97, 123, 1 << 19).astype(np.uint8).tobytes() + b"\n\n")
    monkeypatch.setattr("attnedit.data.documents.PART_BYTES", 1 << 20)
    (tmp_path / "corpus.txt").write_text("one\n\ntwo\n\none")
    made = recipe(tmp_path, heldout=["held.txt", "corpus.txt"])
    texts = find_texts(made)
    with Spilled(tmp_path / "x") as held:
        tracemalloc.start()
        both, limits = look(made, texts, held, lambda done, of: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (len(held), both, limits) == (63, 2, [3])
        last = list(held.texts(59))
    assert peak < 10 << 20  # a chunk and the pieces it is cut into
    assert [len(text) for text in last] == [1 << 19, 3, 3, 3] and last[1:] == ["one", "two", "one"]


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([3], "data: text must be a path or a mapping with files, got 3"),
        ([{"files": "a"}], "data: files must be a list, got 'a'"),
        ([{"file": ["a"]}], "data: unknown key 'file'; the known ones are files, field, separator, weight"),
        ([{"files": ["a"], "weight": 0}], "data: weight must be greater than 0, got 0"),
    ],
)
def test_a_wrong_source_is_named(tmp_path: Path, train: list[Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        recipe(tmp_path, train=train)
    assert said in str(caught.value)


def test_what_no_training_can_use_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for text, share, said in (
        ("one document only", 0.02, "of 1 document none fell"),
        ("the same again\n\nand one more\n\n" * 1000, 0.001, "of 2,000 documents none fell"),
        ("the same again\n\n" * 20, 0.999, "of 20 documents all fell"),
    ):
        (tmp_path / "corpus.txt").write_text(text)
        made = recipe(tmp_path, heldout_share=share, train_documents=5)
        with (
            pytest.raises(ValueError, match=f"{said} into the share of {share} that is held out: .* equal ones fall"),
            opened(made, tokenizer, tmp_path / "tokens"),
        ):
            pass
    (tmp_path / "corpus.txt").write_text(" \n\n \n")
    with (
        pytest.raises(ValueError, match=r"there must be some text in .*corpus\.txt, got none"),
        opened(recipe(tmp_path), tokenizer, tmp_path / "tokens"),
    ):
        pass


@pytest.mark.parametrize("which", [0, 7, -1])
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
def test_a_damaged_shard_is_named_and_made_again(tmp_path: Path, tokenizer: Tokenizer, which: int, damage: str) -> None:
    (tmp_path / "corpus.txt").write_text(words(200, 1))
    made = recipe(tmp_path)
    with opened(made, tokenizer, tmp_path / "tokens") as corpus:
        wanted = corpus.train[:400]
    shards = sorted((tmp_path / "tokens").rglob("0*.safetensors"))
    before = [shard.read_bytes() for shard in shards]
    path, whole = shards[which], bytearray(before[which])
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[:-9])
    else:
        whole[len(whole) - 40] ^= 4
        path.write_bytes(whole)
    with warnings.catch_warnings(record=True) as told, opened(made, tokenizer, tmp_path / "tokens") as corpus:
        warnings.simplefilter("always")
        assert np.array_equal(corpus.train[:400], wanted)
    said = [str(warning.message) for warning in told]
    assert len(said) == (damage != "removed") and all(str(path) in text and "made again" in text for text in said)
    assert sorted((tmp_path / "tokens").rglob("0*.safetensors")) == shards
    assert [shard.read_bytes() for shard in shards] == before
