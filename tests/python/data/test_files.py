"""The same documents from every kind of file, however they are cut and compressed; and what is no text is named."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnedit.data import Source, documents, files, parts, read_documents

DOCUMENTS = ["one", "zwei Wörter\nund eine Zeile", "trois 🦉", "four\n\nlines", "один"]


def read(folder: Path, **source: Any) -> list[str]:
    return [d for part in parts(Source(**source), folder) for d in part.documents()]


def write(path: Path, content: bytes) -> None:
    if path.suffix == ".gz":
        content = gzip.compress(content[: len(content) // 2]) + gzip.compress(content[len(content) // 2 :])
    elif path.suffix == ".zst":
        zstandard = pytest.importorskip("zstandard")
        half = len(content) // 2
        content = b"".join(zstandard.ZstdCompressor().compress(x) for x in (content[:half], content[half:]))
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_every_kind_of_file_holds_the_same_documents(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.txt{suffix}", "<|end|>".join(DOCUMENTS).encode())
    rows = [json.dumps({"id": i, "body": d}, ensure_ascii=i % 2 == 0) for i, d in enumerate(DOCUMENTS)]
    write(tmp_path / f"b.jsonl{suffix}", ("\r\n".join(rows) + "\n\n").encode())
    assert read(tmp_path, files=[f"a.txt{suffix}"], separator="<|end|>") == DOCUMENTS
    assert read(tmp_path, files=[f"b.jsonl{suffix}"], field="body") == DOCUMENTS


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"text": [*DOCUMENTS, None], "number": range(len(DOCUMENTS) + 1)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert len(parts(Source(["a.parquet"]), tmp_path)) == 3
    assert read(tmp_path, files=["a.parquet"]) == DOCUMENTS
    for field, said in (("body", "must have a column 'body', got text, number"), ("number", "must have text in its")):
        with pytest.raises(ValueError, match=said):
            read(tmp_path, files=["a.parquet"], field=field)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(ValueError, match=r"b\.parquet must be a parquet file"):
        read(tmp_path, files=["b.parquet"])


def test_a_column_of_a_dictionary_of_texts_is_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for kind in (pyarrow.string(), pyarrow.large_string()):
        texts = pyarrow.array([*DOCUMENTS, None, DOCUMENTS[0]], kind).dictionary_encode()
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=3)
        assert read(tmp_path, files=["a.parquet"]) == [*DOCUMENTS, DOCUMENTS[0]]
    names = pyarrow.array([b"a", b"b"]).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": names}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="must have text in its column 'text', got dictionary<values=binary"):
        read(tmp_path, files=["b.parquet"])


def test_a_folder_is_every_file_below_it(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("in/b.txt", "in/a.jsonl", "in/deep/c.md", "in/.hidden", "in/deep/.git"):
        (tmp_path / name).write_text('{"text": "line"}' if name.endswith("jsonl") else name)
    assert read(tmp_path, files=["in"]) == ["line", "in/b.txt", "in/deep/c.md"]
    assert read(tmp_path, files=["in/", "in/b.txt"]) == ["line", "in/b.txt", "in/deep/c.md"]


TEXT = st.text(st.sampled_from("ab \n\r|é🦉"), max_size=60)


@settings(max_examples=150)
@given(TEXT, st.integers(1, 9), st.sampled_from(["|", "||", "\n\n", "\n|"]), st.booleans())
def test_parts_lose_nothing_and_repeat_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str, step: int, separator: str, lines: bool
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    if lines:
        rows = [json.dumps({"text": piece}, ensure_ascii=False) for piece in text.split("|")]
        (folder / "a.jsonl").write_text("\n".join(rows), newline="")
        source = Source(["a.jsonl"])
    else:
        (folder / "a.txt").write_text(text, newline="")
        source = Source(["a.txt"], separator=separator)
    whole = [d for part in parts(source, folder) for d in part.documents()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PART_BYTES", step)
        cut = parts(source, folder)
        got = [d for part in cut for d in part.documents()]
    assert len(cut) > 1 or not text or lines or len(text.encode()) <= step
    if separator in ("||", "\n\n") and not lines:  # which of three marks are two depends on where one begins
        assert "".join("".join(got).split()).replace("|", "") == "".join("".join(whole).split()).replace("|", "")
    else:
        assert got == whole


def test_a_long_document_is_several_cut_at_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, documents):
        monkeypatch.setattr(module, "LONGEST", 100)
    text = "".join(f"line {i} é\n" for i in range(200))
    write(tmp_path / "a.txt", text.encode())
    write(tmp_path / "a.txt.gz", text.encode())
    for name, separator in (("a.txt", None), ("a.txt", "<|end|>"), ("a.txt.gz", None), ("a.txt.gz", "<|end|>")):
        pieces = read(tmp_path, files=[name], separator=separator)
        assert len(pieces) > 15 and max(map(len, pieces)) <= 100
        assert "\n".join(pieces) + "\n" == text
    (tmp_path / "b.txt").write_text("🦉" * 1000)
    assert "".join(read(tmp_path, files=["b.txt"])) == "🦉" * 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n\n{"text": "b"}\n[1]\n', "line 4 must be a JSON object, got list"),
        (b'{"text": "a"}\n{"text": \n', "line 2 must be a JSON object: Expecting value at column 11"),
        (b'{"text": "a"}\n{"text": "a\tb"}\n', "line 2 must be a JSON object: Invalid control character at column 12"),
        (b'{"text": "a"}\n{"n": ' + b"1" * 5000 + b"}", "line 2 must be a JSON object: a whole number in it has more"),
        (b'{"text": "a"}\n{"body": "b"}', "line 2 must have text under 'text', got keys body"),
        (b'{"text": 3}', "line 1 must have text under 'text', got int"),
        (b'{"text": "a"}\n{"text": "\xff"}', "line 2 must be UTF-8: byte 10 of it (0xff) is not"),
        (b'{"text": "\\ud83e"}', "line 1 must have text under 'text', got half of a surrogate pair"),
        (b"[" * 5000, "line 1 must be a JSON object: it is too deep to read"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError) as caught:
        read(tmp_path, files=[path.name])
    assert str(caught.value).startswith(f"[data] {path} {said}")


def test_bad_bytes_are_located_in_later_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART_BYTES", 7)
    (tmp_path / "a.txt").write_bytes("é|b|c|".encode() * 20 + b"d\xff")
    with pytest.raises(ValueError, match=r"a\.txt must be UTF-8, byte 141 \(0xff\) is not"):
        read(tmp_path, files=["a.txt"], separator="|")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_or_foreign_compressed_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    write(path, b"some text " * 5000)
    whole = path.read_bytes()
    for broken in (whole[:-10], b"no such thing"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"a\.txt\{suffix} must be a whole (gzip|zstd) file"):
            read_documents([path.name], None, tmp_path)


def test_a_compressed_bomb_is_read_in_little_memory(tmp_path: Path) -> None:
    """A zstd frame of blocks that say "128 KiB of a": 64 MiB in 2 KB."""
    size, count = 1 << 17, 512
    blocks = (((size << 3) | 2 | (i == count - 1)).to_bytes(3, "little") + b"a" for i in range(count))
    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(blocks))
    read = 0
    tracemalloc.start()
    try:
        with files.opened(tmp_path / "a.txt.zst") as file:
            while chunk := file.read(1 << 20):
                read += len(chunk)
        assert read == size * count and tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [b"document 700", b"PAR1", b"text"])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, name: bytes) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    texts = [f"document {i}" for i in range(2000)]
    parquet.write_table(pyarrow.table({"text": texts}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * len(name)))
    with pytest.raises(ValueError, match=r"a\.parquet must be a parquet file: "):
        read(tmp_path, files=[path.name])


@pytest.mark.parametrize(("name", "library"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{name} needs the {library} library: pip install 'attnedit\[data\]'"):
        read_documents([name], None, tmp_path)
