"""Both phases on a mixture of experts: who runs the experts, and that nothing trains them."""

from typing import Any

import numpy as np
import pytest
from tiny import EXPERTS, random_decoder, tiny_config

import attnedit as ae
from attnedit import distill
from attnedit.models import Decoder
from attnedit.nn import MoE

PHASE1 = distill.LayerwiseOptions(tokens=32 * 60, batch_tokens=32, learning_rate=1e-2)


@pytest.fixture
def teacher() -> Decoder:
    return random_decoder(tiny_config(model_type="qwen3_moe", moe=EXPERTS))


def test_phase_1_never_runs_the_students_experts(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.MLA(16, qk_rope_head_dim=8, init="random"), rows)
    for block in student.layers:
        block.mlp = None  # type: ignore[assignment]  # whoever calls it fails
    results = distill.layerwise(student, teacher, rows, PHASE1)
    assert all(r.nmse_layerwise < 0.8 * r.nmse_initial for r in results), results


def test_experts_share_the_teachers_arrays(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.MLA(16, qk_rope_head_dim=8), rows)
    theirs = dict(teacher.named_parameters())
    assert sum(".mlp.experts." in path for path in theirs) == 2 * 3 * EXPERTS.num_experts
    assert all(p is theirs[path] for path, p in student.named_parameters() if ".mlp." in path)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("trained", ["attention", "attention+norms", "all"])
def test_phase_2_runs_them_and_trains_what_is_around(
    teacher: Decoder, rows: np.ndarray, trained: Any, recompute: bool
) -> None:
    student = ae.edit(teacher, ae.MLA(16, qk_rope_head_dim=8), rows)
    calls = 0

    class Counting(MoE):
        def __call__(self, x: ae.Tensor) -> ae.Tensor:
            nonlocal calls
            calls += 1
            return super().__call__(x)

    for block in student.layers:
        block.mlp.__class__ = Counting
    options = distill.ModelwiseOptions(
        tokens=32 * 60, batch_tokens=32, learning_rate=3e-3, train=trained, recompute=recompute
    )
    before = ae.evaluate(student, teacher, list(rows)).kl
    calls = 0
    assert distill.modelwise(student, teacher, rows, options).kept
    probes = 2 * len(rows)
    assert calls == 2 * (60 * (2 if recompute else 1) + probes)
    assert ae.evaluate(student, teacher, list(rows)).kl < 0.9 * before
    theirs = dict(teacher.named_parameters())
    kept = {path for path, p in student.named_parameters() if p is theirs.get(path)}
    assert kept >= {path for path in theirs if ".mlp." in path}
    assert ("embed_tokens.weight" in kept) == (trained != "all")


def test_losses_that_reach_the_router_reach_the_first_layer(teacher: Decoder, rows: np.ndarray) -> None:
    """With recompute the gradients are the same bits: routing is chosen again as it was."""
    found = []
    for recompute in (False, True):
        student = ae.edit(teacher, ae.MLA(16, qk_rope_head_dim=8), rows)
        options = distill.ModelwiseOptions(tokens=32 * 5, batch_tokens=32, learning_rate=3e-3, recompute=recompute)
        distill.modelwise(student, teacher, rows, options)
        found.append({path: p.numpy().copy() for path, p in student.named_parameters() if "self_attn" in path})
    assert all(np.array_equal(found[0][path], found[1][path]) for path in found[0])
