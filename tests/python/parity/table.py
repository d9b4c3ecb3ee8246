"""Prints the parity table: the worst of four random students of each format, as transformers reads their folders.

PYTHONPATH=tests python tests/python/parity/table.py      (needs attnedit, torch and transformers)
"""

import os
import tempfile
from pathlib import Path

from students import LAYERS, student

import attnedit as ae
from attnedit.export.in_transformers import examine
from attnedit.export.parity import judged, probe_for


def main() -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # our threads and torch's would wait for each other's cores
    print("| format | class | largest logit | max abs logit difference | KL, nats/token | greedy generation |")
    print("|---|---|---|---|---|---|")
    for format in sorted(LAYERS):
        figures = []
        for variant in range(4):
            model = student(format, variant)
            probe = probe_for(model.config)
            with tempfile.TemporaryDirectory() as scratch:
                folder = ae.export(model, Path(scratch) / "out", format)
                theirs = examine(folder, probe.tokens, probe.positions, probe.new_tokens)
                figures += judged(model, ae.load(folder), probe, theirs)
        worst = max(figures, key=lambda figure: figure.difference)
        equal = all(figure.generation_equal for figure in figures if figure.generation_equal is not None)
        print(
            f"| {format} | {theirs['name']} | {worst.largest:.2f} | {worst.difference:.1e} "
            f"| {max(figure.kl for figure in figures):.1e} | {'equal' if equal else 'DIFFERENT'} |"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as modules:
        os.environ["HF_MODULES_CACHE"] = modules
        main()
