"""What a conversion keeps, on real weights: stories260K converted in several ways, a row each.

    python benchmarks/flow/quality.py ../shared/material [--rows mla-10 mla-10-all ...] [--seeds 3]

Text: the 2 MiB TinyStories file; trained on the first 2,016 stories, held out the last 300 of 2,316 whole ones, one per
row from BOS, cut at 512. Prints held-out NLL / KL to the teacher / top-1 agreement.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import attnedit as ae
from attnedit.data import Tokenizer, heldout_rows, pack
from attnedit.evaluate.cache import cache_size

SMALL = {"kv_lora_rank": 10, "qk_rope_head_dim": 8}
LARGE = {"kv_lora_rank": 24, "qk_rope_head_dim": 8}


@dataclass(frozen=True)
class Row:
    target: ae.MLA | ae.GateSWA
    phase1: int  # tokens
    phase2: int
    phase2_options: dict[str, Any] = field(default_factory=dict)
    bar: str = ""
    optimizer: str = "adamw"  # of both phases


ROWS = {
    "mla-10-start": Row(ae.MLA(**SMALL), 0, 0, bar="KL <= 1.95"),
    "mla-10": Row(ae.MLA(**SMALL), 250_000, 250_000, bar="1.65 / .21 / .775"),
    "mla-10-1M": Row(ae.MLA(**SMALL), 1_000_000, 1_000_000, bar="1.59 / .155 / .805"),
    "mla-10-all": Row(ae.MLA(**SMALL), 250_000, 250_000, {"train": "all"}, "1.63 / .19 / .79"),
    "mla-10-all-1M": Row(ae.MLA(**SMALL), 1_000_000, 1_000_000, {"train": "all"}, "1.56 / .125 / .83"),
    "mla-10-soap": Row(ae.MLA(**SMALL), 250_000, 250_000, bar="1.65 / .21 / .775", optimizer="soap"),
    "mla-10-all-1M-soap": Row(
        ae.MLA(**SMALL), 1_000_000, 1_000_000, {"train": "all"}, "1.56 / .125 / .83", optimizer="soap"
    ),
    "mla-10-4M-soap": Row(ae.MLA(**SMALL), 4_000_000, 4_000_000, bar="beat 1.550 / .121 / .830", optimizer="soap"),
    "mla-10-random-1M": Row(ae.MLA(**SMALL, init="random"), 1_000_000, 1_000_000, bar="1.65 / .21 / .775"),
    "mla-10-random-phase2-2M": Row(
        ae.MLA(**SMALL, init="random"), 0, 2_000_000, bar="KL at least 1.25 x the row above"
    ),
    "mla-24": Row(ae.MLA(**LARGE), 250_000, 250_000, bar="1.48 / .048 / .89"),
    "mla-24-1M": Row(ae.MLA(**LARGE), 1_000_000, 1_000_000, bar="1.46 / .035 / .905"),
    "swa-32": Row(ae.GateSWA(32), 250_000, 250_000, bar="1.465 / .036 / .915"),
    "swa-16": Row(ae.GateSWA(16), 250_000, 250_000, bar="1.50 / .075 / .865"),
    "swa-512-start": Row(ae.GateSWA(512, full_layers=()), 0, 0, bar="KL <= 1e-6"),
}


def texts(material: Path) -> tuple[list[str], list[str]]:
    stories = (material / "corpora/tinystories_train_head_2MiB.txt").read_text("utf-8").split("<|endoftext|>")
    whole = [story.strip() for story in stories[:-1] if story.strip()]
    assert len(whole) == 2316, f"expected 2,316 whole stories, got {len(whole)}"
    return whole[:2016], whole[-300:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("material", type=Path)
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=["mla-10-start", "mla-10", "mla-24", "swa-32", "swa-16", "swa-512-start"],
    )
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()

    folder = options.material / "models/stories260K"
    teacher, tokenizer = ae.load(folder), Tokenizer(folder)
    training, heldout = texts(options.material)
    tokens = pack(tokenizer.encode_documents(training), 512).tokens
    rows = heldout_rows(tokenizer.encode_documents(heldout), 512)
    print(f"{tokens.size:,} training tokens, {sum(len(r) - 1 for r in rows):,} held-out predictions", flush=True)
    print("| conversion | seed | KV | NLL / KL / agreement | at least | seconds |\n|---|---|---|---|---|---|")
    for name in options.rows:
        row = ROWS[name]
        for seed in range(options.seeds):
            begun = time.monotonic()
            shuffled = tokens[np.random.default_rng(seed).permutation(len(tokens))]
            student = ae.edit(teacher, row.target, shuffled, seed)
            if row.phase1:
                phase1 = ae.distill.LayerwiseOptions(tokens=row.phase1, optimizer=row.optimizer)
                ae.distill.layerwise(student, teacher, tokens, phase1, seed=seed)
            if row.phase2:
                phase2 = ae.distill.ModelwiseOptions(tokens=row.phase2, optimizer=row.optimizer, **row.phase2_options)
                ae.distill.modelwise(student, teacher, tokens, phase2, seed=seed)
            seconds = time.monotonic() - begun
            r = ae.evaluate(student, teacher, rows)
            caches = [cache_size(m.config, 512).bytes_at_context for m in (student, teacher)]
            print(
                f"| {name} | {seed} | {100 * (caches[0] / caches[1] - 1):+.1f} % | {r.student_nll:.4f} / {r.kl:.5f} / "
                f"{r.top1_agreement:.3f} | {row.bar} | {seconds:.0f} |",
                flush=True,
            )
    print(f"teacher NLL {r.teacher_nll:.4f}")


if __name__ == "__main__":
    main()
