"""Writes text that every CPython has: the sources of its standard library and pydoc's topics, a file a document.

    python examples/stdlib_text.py runs/stdlib

Train and held-out files are told apart by a hash of their name, so that they are the same on every machine; what is in
them differs a little between Python versions. Tests, generated tables and files above 200 kB are left out.
"""

import hashlib
import sys
import sysconfig
from pathlib import Path

GENERATED = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "encodings",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "_sysconfigdata",
)
HELDOUT_SHARE = 0.04


def documents() -> dict[str, str]:
    """Name -> text, in the order of the names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if any(part.startswith(GENERATED) for part in name.split("/")) or path.stat().st_size > 200_000:
            continue
        try:
            text = path.read_text("utf-8").strip()
        except UnicodeDecodeError:
            continue
        if len(text) > 200:
            found[name] = text
    from pydoc_data import topics

    for topic, text in sorted(topics.topics.items()):
        if len(text.strip()) > 200:
            found[f"topics/{topic}.txt"] = text.strip()
    return found


def is_heldout(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < HELDOUT_SHARE * 2**32


def write(folder: Path) -> None:
    """folder/train/*.txt and folder/heldout/*.txt; nothing if they are there already."""
    if (folder / "done").exists():
        return
    counts = {"train": 0, "heldout": 0}
    for name, text in documents().items():
        part = "heldout" if is_heldout(name) else "train"
        path = folder / part / (name.replace("/", "__").removesuffix(".txt") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        counts[part] += 1
    (folder / "done").touch()
    print(f"{folder}: {counts['train']} documents to train on, {counts['heldout']} held out")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
