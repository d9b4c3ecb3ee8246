"""What plan tells before anything is computed."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tiny import EXPERTS, tiny_config, write_recipe

import attnedit as ae
from attnedit.checkpoint import save_checkpoint
from attnedit.convert import read_recipe
from attnedit.convert.calibrate import calibrate
from attnedit.convert.plan import in_bytes, plan
from attnedit.convert.rehearse import rehearse_modelwise
from attnedit.distill import ModelwiseOptions
from attnedit.distill.budget import steps_for
from attnedit.distill.modelwise import PROBE_ROWS
from attnedit.models import Decoder
from attnedit.nn import GQAConfig, MoEConfig


@pytest.mark.parametrize(
    ("target", "warning"),
    [
        ({"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8}, None),
        ({"attention": "mla", "kv_lora_rank": 24, "qk_rope_head_dim": 8}, "lower kv_lora_rank or qk_rope_head_dim"),
        ({"attention": "gate_swa", "sliding_window": 8}, None),
        ({"attention": "gate_swa", "sliding_window": 64}, "lower sliding_window or full_layers"),
    ],
)
def test_a_cache_that_does_not_shrink_is_told(tmp_path: Path, target: dict[str, Any], warning: str | None) -> None:
    planned = plan(read_recipe(write_recipe(tmp_path, target=target)))
    if warning is None:
        assert planned.warning is None
    else:
        assert planned.warning is not None and planned.warning in planned.text(64)
        assert "would not shrink: 4,096 numbers at 64 tokens, the teacher's has 4,096" in planned.warning
        assert planned.warning.endswith(warning)


MEASURE = Path(__file__).parents[3] / "benchmarks" / "scaling" / "measure.py"


def made(folder: Path, hidden: int, moe: MoEConfig | None) -> Path:
    """A folder of these shapes in bfloat16, two layers."""
    heads, width = hidden // 32, 3 * hidden
    moe = None if moe is None else replace(moe, moe_intermediate_size=hidden)
    config = tiny_config(
        hidden_size=hidden, intermediate_size=width, vocab_size=10 * hidden, moe=moe,
        attention=(GQAConfig(heads, heads // 2, 32, qk_norm=True),) * 2,
    )  # fmt: skip
    raw = {
        "model_type": "qwen3" if moe is None else "qwen3_moe", "vocab_size": 10 * hidden, "hidden_size": hidden,
        "intermediate_size": width, "num_hidden_layers": 2, "num_attention_heads": heads,
        "num_key_value_heads": heads // 2, "head_dim": 32, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, **({} if moe is None else asdict(moe)),
    }  # fmt: skip
    some = (0.05 * np.random.default_rng(0).normal(size=100_003)).astype(ml_dtypes.bfloat16)
    tensors = {
        f"model.{path}": np.resize(some, p.shape) if len(p.shape) > 1 else np.ones(p.shape, some.dtype)
        for path, p in Decoder(config).named_parameters()
    }
    save_checkpoint(folder, raw, tensors)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of resident memory")
@pytest.mark.parametrize(
    ("hidden", "length", "options"),
    [
        (128, 256, ()), (256, 512, ("--teacher", "cached")), (384, 256, ("--init", "regression")), (128, 512, ("moe",)),
    ],
)  # fmt: skip
def test_memory_and_disk_are_as_planned(tmp_path: Path, hidden: int, length: int, options: tuple[str, ...]) -> None:
    """Peak memory within 15 %, disk within 5 %: of the whole process, as the system counts it."""
    folder = made(tmp_path / "teacher", hidden, EXPERTS if options == ("moe",) else None)
    (tmp_path / "run").mkdir()
    asked = ["--length", length, "--rank", hidden // 4, "--rope", 16, "--tokens", 4096, "--scratch", tmp_path / "run"]
    more = [] if options == ("moe",) else [*options]
    done = subprocess.run(
        [sys.executable, MEASURE, folder, *map(str, asked), *more], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = {line.pop("step"): line for line in map(json.loads, done.stdout.splitlines())}
    planned = lines.pop("plan")
    phases = [step for step in ("edit", "layerwise", "modelwise") if step in lines]
    peak = max(lines[step]["peak_bytes"] for step in phases)
    assert max(planned[step] for step in phases) == pytest.approx(peak, rel=0.15), done.stdout
    assert planned["disk"] == pytest.approx(lines["export"]["disk_bytes"], rel=0.05), done.stdout


def test_a_mixture_of_experts_costs_the_picked_experts_only(tmp_path: Path) -> None:
    sizes = (EXPERTS, replace(EXPERTS, num_experts=20), replace(EXPERTS, num_experts_per_tok=4))
    flops = []
    for i, moe in enumerate(sizes):
        flops.append(plan(read_recipe(write_recipe(tmp_path / str(i), moe))).work.modelwise_flops)
    layers, hidden = 2, 24
    router, expert = 2 * 15 * hidden, 2 * 3 * hidden * EXPERTS.moe_intermediate_size
    # Teacher and student there, and back to the student's activations; both there for the probes before and behind.
    tokens = 49_920 * 3 + 2 * PROBE_ROWS * 32 * 2
    assert flops[1] - flops[0] == tokens * layers * router
    assert flops[2] - flops[0] == tokens * layers * 2 * expert


def test_a_cached_teacher_computes_what_a_live_one_does(tmp_path: Path) -> None:
    """Once, where its rows are trained on once."""
    live, cached = (
        plan(
            read_recipe(
                write_recipe(tmp_path / kind, modelwise={"tokens": 49_920, "feature_weight": 0, "teacher": kind})
            )
        )
        for kind in ("live", "cached")
    )
    assert cached.work.modelwise_flops == pytest.approx(live.work.modelwise_flops)


@pytest.mark.parametrize("moe", [None, EXPERTS])
def test_every_kernel_of_a_plan_is_timed(
    tmp_path: Path, moe: MoEConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("attnedit.convert.calibrate"), "SECONDS", 0.0)
    recipe = read_recipe(
        write_recipe(tmp_path, moe, modelwise={"tokens": 640, "feature_weight": 0, "teacher": "cached"})
    )
    planned = plan(recipe)
    recipe = recipe.fitted(planned.source.rope.max_position_embeddings)
    rates = calibrate(recipe, planned.source, planned.target, planned.edited_layers, planned.itemsize)
    work = planned.work
    for timed, parts in zip(rates, (work.layers + work.teacher, work.modelwise, work.evaluations(2.5)), strict=True):
        for kernels, _ in parts:
            for name, flops, size in kernels:
                if flops or size:
                    assert (timed.per_flop if flops else timed.per_byte).get(name, 0) > 0, name
        assert timed.seconds(parts) > 0


def test_a_rehearsal_is_what_a_run_takes(teacher: Decoder, rows: np.ndarray, tmp_path: Path) -> None:
    """The same arithmetic in the same order, in both steps."""
    options = ModelwiseOptions(tokens=32 * 4, batch_tokens=64, learning_rate=1e-3)
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=16, qk_rope_head_dim=8, init="random"))
    rehearsed = rehearse_modelwise(
        teacher.config, student.config, [0, 1], steps_for(128, 32, 64), options, "float32", 4
    )
    with ae.profile(path := tmp_path / "step.json"):
        ae.distill.modelwise(student, teacher, rows, options)
    events = json.loads(path.read_text())["traceEvents"]
    run = [(e["name"], e["args"]["GFLOP"]) for e in events if e["ph"] == "X" and "GFLOP" in e["args"]]
    step = [(name, flops / 1e9) for name, flops, _ in rehearsed.step if flops]
    assert sum(run[i : i + len(step)] == step for i in range(len(run))) == 2, (step, run)


def test_sizes_are_told_in_their_unit() -> None:
    assert [in_bytes(n) for n in (512, 3 << 20, 5 << 30)] == ["0.50 KiB", "3.00 MiB", "5.00 GiB"]
