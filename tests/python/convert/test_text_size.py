"""How many tokens a text has, estimated from samples of it, beside all of them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import words, write_teacher

from attnedit.convert.text_size import sampled
from attnedit.data import Source, Tokenizer, parts

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is absent: parquet")
zstandard = pytest.importorskip("zstandard", reason="zstandard is absent: zst")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_teacher(tmp_path_factory.mktemp("teacher") / "teacher", words(20, 0)))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return words(12_000, 3).split("\n\n")  # 3 MB


def written(folder: Path, name: str, texts: list[str]) -> Path:
    path = folder / name
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    plain = "\n\n".join(texts).encode()
    if name.endswith(".parquet"):
        from pyarrow import parquet

        rows = [text if i % 3 else None for i, text in enumerate(texts)]
        parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=5_000)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines if ".jsonl" in name else plain))
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.ZstdCompressor().compress(lines if ".jsonl" in name else plain))
    else:
        path.write_bytes(plain)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.gz", "a.jsonl.zst", "a.txt.zst", "a.parquet"])
@pytest.mark.parametrize("separator", ["\n\n", None])
def test_an_estimate_is_near(
    tmp_path: Path, tokenizer: Tokenizer, texts: list[str], name: str, separator: str | None
) -> None:
    written(tmp_path, name, texts)
    found = parts(Source([name], separator=separator), tmp_path)
    documents = [document for part in found for document in part.documents()]
    every = sum(map(len, tokenizer.encode_documents(documents))) + len(documents)
    sample = sampled(found, tokenizer, 8)
    assert sample.tokens == pytest.approx(every, rel=0.05) and sample.documents == pytest.approx(
        len(documents), rel=0.05
    )
    first = [min(len(tokens), 8) for tokens in tokenizer.encode_documents(documents)]
    assert sample.first == pytest.approx(np.mean(first), rel=0.05)


def test_kinds_add_up_and_small_files_are_read_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    few = words(40, 1).split("\n\n")
    for name in ("a.txt", "b.txt.gz", "c.jsonl.zst", "d.parquet", "empty.txt.gz"):
        written(tmp_path, name, few if "empty" not in name else [])
    found = parts(Source([str(tmp_path)], separator="\n\n"), tmp_path)
    documents = [document for part in found for document in part.documents()]
    every = sum(map(len, tokenizer.encode_documents(documents))) + len(documents)
    assert abs(sampled(found, tokenizer, 8).tokens - every) <= 1
    with pytest.raises(ValueError, match=r"there must be some text in .*empty\.txt\.gz, got none"):
        sampled(parts(Source(["empty.txt.gz"]), tmp_path), tokenizer, 8)


def test_a_broken_file_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name in ("a.txt.gz", "a.txt.zst"):
        path = written(tmp_path, name, ["a b c"] * 40)
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(ValueError, match=rf"{path} must be a whole (gzip|zstd) file"):
            sampled(parts(Source([name]), tmp_path), tokenizer, 8)
