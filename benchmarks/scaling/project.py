"""Projects real sizes from kernels timed here: the tables of docs/scaling.md. No checkpoint is needed, nor made.

    python benchmarks/scaling/project.py qwen3-8b:bfloat16 qwen3-30b-a3b:bfloat16 [--seconds 25]

A line for each shape: what `attnedit plan --calibrate` says of MLA (rank 512 + 64) from 1,000,000 tokens a layer in
phase 1 and 4,000,000 in phase 2, rows of 2,048, and of three evaluations of 200 such rows. Nodes share phase 1 by
layers; phase 2 is one node's.
"""

import argparse
import math
from importlib import import_module

from make_checkpoint import SHAPES, config

import attnedit as ae
from attnedit import distill
from attnedit.convert.cost import evaluated_rows
from attnedit.convert.plan import in_bytes, in_time, plan_for
from attnedit.convert.recipe import SHARE_DOCUMENTS, Data, Recipe
from attnedit.models.load import family_of

calibrate = import_module("attnedit.convert.calibrate")  # its budget of seconds is changed here
NODES = (1, 8, 64)


def row(name: str, dtype: str) -> str:
    raw = config(name)
    source = family_of(raw).decoder_config(raw)
    recipe = Recipe(
        teacher="-",
        target=ae.MLA(kv_lora_rank=512, qk_rope_head_dim=64),
        data=Data(train=["-"], sequence_length=2048),
        layerwise=distill.LayerwiseOptions(tokens=1_000_000),
        modelwise=distill.ModelwiseOptions(tokens=4_000_000, recompute=True, teacher="cached", feature_weight=0),
        run="-",
        compute=dtype,  # type: ignore[arg-type]
    )
    planned = plan_for(recipe, source, 2)
    first, second, third = calibrate.calibrate(
        recipe, planned.source, planned.target, planned.edited_layers, planned.itemsize
    )
    learning, teacher = first.seconds(planned.work.layers), first.seconds(planned.work.teacher)
    layers = source.num_hidden_layers
    # A node that takes the last layers lets the teacher pass through all those before.
    shared = [teacher + learning * math.ceil(layers / nodes) / layers for nodes in NODES]
    return (
        f"| {name} | {dtype} | {in_bytes(planned.edit_memory)} | {in_bytes(planned.layerwise_memory)} "
        f"| {in_bytes(planned.modelwise_memory)} | {in_bytes(planned.disk.most)} "
        f"| {planned.work.layerwise_flops / 1e15:.3g} | {planned.work.modelwise_flops / 1e15:.3g} "
        f"| {' / '.join(map(in_time, shared))} | {in_time(second.seconds(planned.work.modelwise))} "
        f"| {in_time(third.seconds(planned.work.evaluations(evaluated_rows(SHARE_DOCUMENTS))))} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="+", help=f"of {', '.join(SHAPES)}, each with :float32 or :bfloat16")
    parser.add_argument("--seconds", type=float, default=calibrate.SECONDS, help="to time kernels for, a shape")
    asked = parser.parse_args()
    calibrate.SECONDS = asked.seconds
    print(
        "| shapes | compute | edit | phase 1 | phase 2 | disk | PFLOP 1 | PFLOP 2 | phase 1 on 1 / 8 / 64 | phase 2 "
        "| evaluations |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for shape in asked.shapes:
        print(row(*shape.split(":")), flush=True)


if __name__ == "__main__":
    main()
