"""What plan tells before anything is computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import EXPERTS, write_recipe

from attnedit import runtime
from attnedit.convert import convert, read_recipe
from attnedit.convert.plan import in_bytes, plan
from attnedit.convert.progress import Progress
from attnedit.nn import MoEConfig


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


@pytest.mark.parametrize("moe", [None, EXPERTS, replace(EXPERTS, num_experts=24, moe_intermediate_size=80)])
@pytest.mark.parametrize(
    "target",
    [
        {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8},
        {"attention": "gate_swa", "sliding_window": 8},
    ],
)
def test_the_planned_memory_suffices(tmp_path: Path, target: dict[str, Any], moe: MoEConfig | None) -> None:
    short = {"tokens": 2_000}
    recipe = read_recipe(write_recipe(tmp_path, moe, target=target, layerwise=short, modelwise=short))
    runtime.empty_cache()
    before = runtime.memory_stats()["allocated_bytes.all.current"]
    runtime.reset_peak_memory_stats()
    convert(recipe, Progress(quiet=True))
    peak = runtime.memory_stats()["allocated_bytes.all.peak"] - before
    assert 0.25 * plan(recipe).peak_memory < peak < plan(recipe).peak_memory


def test_a_mixture_of_experts_costs_the_picked_experts_only(tmp_path: Path) -> None:
    sizes = (EXPERTS, replace(EXPERTS, num_experts=20), replace(EXPERTS, num_experts_per_tok=4))
    flops = []
    for i, moe in enumerate(sizes):
        planned = plan(read_recipe(write_recipe(tmp_path / str(i), moe)))
        flops.append(planned.modelwise_flops - planned.layerwise_flops)
    tokens, passes, layers, hidden = 50_000, 4, 2, 24
    per_expert = 2 * 3 * hidden * EXPERTS.moe_intermediate_size
    assert flops[1] - flops[0] == tokens * passes * layers * 2 * 15 * hidden  # the router's rows
    assert flops[2] - flops[0] == tokens * passes * layers * 2 * per_expert


def test_sizes_are_told_in_their_unit() -> None:
    assert [in_bytes(n) for n in (512, 3 << 20, 5 << 30)] == ["0.50 KiB", "3.00 MiB", "5.00 GiB"]
