"""convert/recipe.py: a recipe."""

from pathlib import Path

import yaml

from attnedit.convert import read_recipe

SEED = {
    "teacher": "t", "target": {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8, "layers": [0, 1]},
    "data": {"train": ["*.txt"], "heldout": ["h"], "separator": "\n", "sequence_length": 32}, "run": "r",
    "layerwise": {"tokens": 1_000, "learning_rate": 1e-3}, "modelwise": {"tokens": 1_000, "feature_weight": 0.05},
}  # fmt: skip
SWA = {"attention": "gate_swa", "sliding_window": 8, "full_layers": "auto", "gate": "sigmoid"}


def seeds() -> list[bytes]:
    aliases = b"teacher: &a [x]\ntarget: {<<: *a}\nrun: *a\n"
    return [yaml.safe_dump(SEED).encode(), yaml.safe_dump(SEED | {"target": SWA, "seed": 3}).encode(), aliases]


def one_input(data: bytes, folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(data)
    read_recipe(path).decisive()
