"""A corpus to training rows, beside the tokenizers library's own batches: megabytes a second, and resident memory.

    python benchmarks/flow/tokenize_corpus.py --tokenizer ../shared/material/tokenizers/qwen2 --megabytes 34

The text is made here: documents of forty lines of CPython's standard library, with a fixed seed. Each side runs in
a process of its own. The library encodes lists of 1,024 documents that are in memory already, and its tokens are thrown
away; ours is the whole way of a conversion: the file is hashed and looked through for held-out documents, then read,
split, encoded, packed, written to the run folder and read back as rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from attnedit.runtime import peak_resident_memory

EXAMPLES = Path(__file__).parents[2] / "examples"
SEPARATOR = "<|endoftext|>"
SIDES = ("encode_batch", "encode_batch_fast", "ours")  # the second keeps no offsets, as ours


def make_text(path: Path, megabytes: int) -> None:
    sys.path.insert(0, str(EXAMPLES))
    import stdlib_text

    lines = [line for text in stdlib_text.documents().values() for line in text.splitlines() if line.strip()]
    rng = np.random.default_rng(0)
    size = 0
    with path.open("w") as file:
        while size < megabytes * 1_000_000:
            document = "\n".join(lines[i] for i in rng.integers(0, len(lines), 40)) + SEPARATOR
            size += len(document.encode())
            file.write(document)


def library(text: Path, tokenizer: Path, function: str) -> dict[str, float]:
    from attnedit.data import Tokenizer, read_documents

    made = Tokenizer(tokenizer)._tokenizer  # as we set it up
    documents = iter(read_documents([text], SEPARATOR, Path()))
    seconds, tokens = 0.0, 0
    while part := list(islice(documents, 1024)):
        begun = time.perf_counter()
        encoded = getattr(made, function)(part, add_special_tokens=False)
        seconds += time.perf_counter() - begun
        tokens += sum(len(one) for one in encoded)
    return {"seconds": seconds, "tokens": tokens}


def ours(text: Path, tokenizer: Path, folder: Path, seconds: float) -> dict[str, float]:
    from attnedit.convert.corpus import open_corpus
    from attnedit.convert.recipe import Data, Recipe
    from attnedit.convert.texts import find_texts
    from attnedit.data import Tokenizer
    from attnedit.edit import MLA

    data = Data(train=[str(text)], separator=SEPARATOR, sequence_length=2048, heldout_documents=500)
    recipe = Recipe(teacher=str(tokenizer), target=MLA(kv_lora_rank=8), data=data, run=str(folder))
    made = Tokenizer(tokenizer)
    begun = time.perf_counter()
    with open_corpus(recipe, find_texts(recipe), made, made.vocab_size, folder) as corpus:
        looked = time.perf_counter()
        rows, wanted = corpus.train, 1
        began: float | None = None
        while rows.available(wanted) == wanted and time.perf_counter() - looked < seconds:
            began = began or time.perf_counter()
            wanted += 1024
        ended, count = time.perf_counter(), rows.available(wanted)
        assert began is not None and rows[count - 1].shape == (2048,)
    return {
        "complete": count < wanted, "hash_and_look_seconds": looked - begun, "first_row_seconds": began - looked,
        "seconds": ended - looked, "tokens": count * 2048,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=EXAMPLES / "teacher")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the text and our tokens are kept; the next call continues")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="ours stops behind the shard in which these are over"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        text = folder / "text.txt"
        if options.side:
            if options.side == "ours":
                found = ours(text, options.tokenizer, folder / "tokens", options.seconds)
            else:
                found = library(text, options.tokenizer, options.side)
            print(json.dumps(found | {"peak_mib": peak_resident_memory() / 2**20}))
            return
        if not text.exists():
            make_text(text, options.megabytes)
        megabytes = text.stat().st_size / 1e6
        for side in options.sides:
            command = [sys.executable, __file__, "--tokenizer", options.tokenizer, "--folder", folder, "--side", side]
            command += ["--seconds", options.seconds]
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            rate = megabytes / found["seconds"]
            said = f", {rate:.2f} MB/s" if found.pop("complete", True) and options.folder is None else ""
            print(f"{side}: {megabytes:,.0f} MB{said}", {k: round(v, 1) for k, v in found.items()}, flush=True)


if __name__ == "__main__":
    main()
