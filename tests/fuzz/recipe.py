"""convert/recipe.py: a recipe."""

import random
import re
from pathlib import Path

import yaml

from attnedit.convert import read_recipe

SEED = {
    "teacher": "t", "target": {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8, "layers": [0, 1]},
    "data": {"train": ["*.txt"], "heldout": ["h"], "separator": "\n", "sequence_length": 32}, "run": "r",
    "layerwise": {"tokens": 1_000, "learning_rate": 1e-3}, "modelwise": {"tokens": 1_000, "feature_weight": 0.05},
}  # fmt: skip
SWA = {"attention": "gate_swa", "sliding_window": 8, "full_layers": "auto", "gate": "sigmoid"}

WORDS = ["!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}", "!!omap [a: b]", "!!str [a]",
         "!!map [{a: b}]", "!!map", "2001-99-99", "2001-1-1 9:99:99", "0x_", "0b2", "08", "1:59", "9:59.9", "-.inf",
         ".nan", "1e400", "1" * 5000, "? [a]\n: b", "{[a]: b}", "{a: {b: c}}", "{null: 1}", "[[]]", "&a [*a]", "<<",
         "<<: {a: b}", "*a", "&a", "~", "yes", "=", "|\n x", "'", '"\\ud800"', '"\\0"', "a.b.", "layerwise.tokens",
         "\u2028", "\ufeff", "%YAML 9.9", "---", "\t"]  # fmt: skip


def seeds() -> list[bytes]:
    aliases = b"teacher: &a [x]\ntarget: {<<: *a}\nrun: *a\n"
    return [yaml.safe_dump(SEED).encode(), yaml.safe_dump(SEED | {"target": SWA, "seed": 3}).encode(), aliases]


def mutated(data: bytes, seed: int) -> bytes | None:
    """One to three of its words replaced, or joined, by others that YAML reads in its own ways."""
    rng, pieces = random.Random(seed), re.split(r"(\w+)", data.decode(errors="replace"))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pieces))
        pieces[at] = rng.choice([rng.choice(WORDS), pieces[at] + rng.choice(WORDS), rng.choice(pieces), ""])
    return "".join(pieces).encode()


def one_input(data: bytes, folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(data)
    read_recipe(path).decisive()
