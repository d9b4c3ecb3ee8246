"""Files -> documents -> training and held-out ones."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnedit.data import read_documents, split_heldout


def test_files_are_sorted_and_patterns_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "sub/deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "z.md", "sub/c.txt", "sub/deep/d.txt"):
        (tmp_path / name).write_text(f" {name}\n")
    assert read_documents(["z.md", "*.txt"], None, tmp_path) == ["z.md", "a.txt", "b.txt"]
    assert read_documents(["**/*.txt"], None, tmp_path) == ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt"]
    assert read_documents([tmp_path / "sub/*.txt"], None, Path("/nowhere")) == ["sub/c.txt"]
    assert read_documents(["a.txt", "*.txt"], None, tmp_path) == ["a.txt", "b.txt"]


def test_a_path_with_brackets_means_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("one")
    assert read_documents(["a[1].txt"], None, tmp_path) == ["one"]


def test_documents_are_split_and_stripped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n<|end|>\n two \n<|end|><|end|> \n <|end|>last")
    assert read_documents(["a"], "<|end|>", tmp_path) == ["one", "two", "last"]
    (tmp_path / "b").write_bytes(b"one\r\n\r\ntwo\r\nlines")
    assert read_documents(["b"], "\n\n", tmp_path) == ["one", "two\nlines"]


@pytest.mark.parametrize("content", ["", " \n", "<|end|> <|end|>"])
def test_no_text_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ValueError, match=r"\[data\] there must be some text in .*a\.txt, got none"):
        read_documents(["a.txt"], "<|end|>", tmp_path)


def test_a_pattern_without_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for pattern in ("nothing*.txt", "folder", "fold*"):
        with pytest.raises(ValueError) as error:
            read_documents([pattern], None, tmp_path)
        assert repr(str(tmp_path / pattern)) in str(error.value)


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode() + b"\xff")
    with pytest.raises(ValueError, match=r"a\.txt must be UTF-8, byte 2 \(0xff\) is not"):
        read_documents(["a.txt"], None, tmp_path)


def test_an_empty_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="separator"):
        read_documents(["a.txt"], "", tmp_path)


@given(st.lists(st.text(max_size=5)), st.floats(0.01, 0.99), st.integers(0, 2**40), st.randoms())
def test_a_document_is_held_out_whatever_stands_beside_it(
    documents: list[str], share: float, seed: int, rng: object
) -> None:
    training, heldout = split_heldout(documents, share, seed)
    assert sorted(training + heldout) == sorted(documents) and not set(training) & set(heldout)
    shuffled = documents.copy()
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(split_heldout(shuffled[: len(shuffled) // 2], share, seed)[1]) <= set(heldout)
    chosen = set(heldout)
    assert heldout == [document for document in documents if document in chosen]


def test_about_the_share_is_held_out_and_the_seed_chooses() -> None:
    documents = [f"document {i}" for i in range(4000)]
    first, second = (split_heldout(documents, 0.1, seed)[1] for seed in (0, 1))
    assert abs(len(first) - 400) < 100 and abs(len(second) - 400) < 100 and first != second
    with pytest.raises(ValueError, match="share must lie between 0 and 1, got 1"):
        split_heldout(documents, 1, 0)
