"""The edit's promises: what is shared, what is equal, what is refused."""

import numpy as np
import pytest
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit.autograd import no_grad
from attnedit.models import Decoder


def kl(student: Decoder, teacher: Decoder, rows: np.ndarray) -> float:
    return ae.evaluate(student, teacher, list(rows)).kl


def test_what_the_edit_leaves_alone_is_the_teachers_own(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=8), rows)
    theirs = dict(teacher.named_parameters())
    for path, parameter in student.named_parameters():
        assert (parameter is theirs.get(path)) == ("self_attn" not in path), path


@pytest.mark.parametrize("gate", ["sigmoid", "softplus"])
@pytest.mark.parametrize("gate_per", ["head", "element"])
def test_window_as_long_as_the_text_and_the_gate_at_its_start_is_the_source(
    teacher: Decoder, rows: np.ndarray, gate: str, gate_per: str
) -> None:
    target = ae.GateSWA(sliding_window=32, full_layers=(), gate=gate, gate_per=gate_per)
    student = ae.edit(teacher, target, rows)
    np.testing.assert_allclose(student.logits(rows).numpy(), teacher.logits(rows).numpy(), rtol=1e-4, atol=1e-4)
    assert kl(student, teacher, rows) <= 1e-6


def test_a_short_window_is_not_the_source(teacher: Decoder, rows: np.ndarray) -> None:
    assert kl(ae.edit(teacher, ae.GateSWA(sliding_window=3, full_layers=()), rows), teacher, rows) > 1e-3


def test_auto_picks_the_layer_with_the_least_divergence(teacher: Decoder, rows: np.ndarray) -> None:
    def full(student: Decoder) -> list[int]:
        return [i for i, layer in enumerate(student.config.attention) if layer.sliding_window is None]

    student = ae.edit(teacher, ae.GateSWA(sliding_window=3), rows)
    measured = [
        kl(ae.edit(teacher, ae.GateSWA(sliding_window=3, full_layers=(i,)), rows), teacher, rows) for i in (0, 1)
    ]
    assert full(student) == [int(np.argmin(measured))]


def test_regression_starts_nearer_than_random(teacher: Decoder, rows: np.ndarray) -> None:
    target = {"kv_lora_rank": 16, "qk_rope_head_dim": 8}
    starts = {
        init: kl(ae.edit(teacher, ae.MLA(**target, init=init), rows), teacher, rows)
        for init in ("regression", "random")
    }
    assert starts["regression"] < 0.7 * starts["random"]


def test_only_the_named_layers_change(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=8, layers=(1,)), rows)
    assert student.config.attention[0] == teacher.config.attention[0]
    assert student.layers[0].self_attn.q_proj.weight is teacher.layers[0].self_attn.q_proj.weight


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            ae.MLA(kv_lora_rank=8, v_head_dim=4),
            r"num_heads \* v_head_dim must equal o_proj's input width 32, got 4 \* 4",
        ),
        (ae.MLA(kv_lora_rank=0), "kv_lora_rank must be at least 1, got 0"),
        (ae.MLA(kv_lora_rank=8, qk_rope_head_dim=3), "qk_rope_head_dim must be a multiple of 2, got 3"),
        (
            ae.MLA(kv_lora_rank=8, qk_rope_head_dim=10),
            "qk_rope_head_dim must be at most the source's head_dim 8, got 10",
        ),
        (ae.MLA(kv_lora_rank=10**12), "kv_lora_rank must be at most 1048576, got 1000000000000"),
        (ae.MLA(kv_lora_rank=25), "kv_lora_rank must be at most the hidden_size 24, got 25"),
        (ae.MLA(kv_lora_rank=8, layers=(2,)), r"layers must be different numbers from 0 to 1, got \[2\]"),
        (ae.GateSWA(sliding_window=0), "sliding_window must be at least 1, got 0"),
        (ae.GateSWA(full_layers=0), "full_layers as a period must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(teacher: Decoder, rows: np.ndarray, target: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.edit(teacher, target, rows)  # type: ignore[arg-type]


def test_an_edited_model_is_not_edited_again(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.GateSWA(sliding_window=3, full_layers=()), rows)
    with pytest.raises(ValueError, match="layer 0 must be grouped-query attention, got GateSWAConfig"):
        ae.edit(student, ae.MLA(kv_lora_rank=8), rows)


def test_calibration_is_asked_for() -> None:
    with pytest.raises(ValueError, match="calibration must be rows of tokens"):
        ae.edit(random_decoder(tiny_config()), ae.MLA(kv_lora_rank=8))


def test_mla_decoder_runs_without_recording(teacher: Decoder, rows: np.ndarray) -> None:
    with no_grad():
        hidden = ae.edit(teacher, ae.MLA(kv_lora_rank=8, init="random"), rows)(rows)
    assert hidden.node is None and np.isfinite(hidden.numpy()).all()


@pytest.mark.parametrize(("target", "turns"), [(ae.MLA(kv_lora_rank=8), 2), (ae.GateSWA(sliding_window=3), 2)])
def test_long_work_can_be_followed(teacher: Decoder, rows: np.ndarray, target: ae.MLA | ae.GateSWA, turns: int) -> None:
    edited: list[tuple[int, int]] = []
    student = ae.edit(teacher, target, rows, on_layer=lambda done, of: edited.append((done, of)))
    assert edited == [(i + 1, turns) for i in range(turns)]
    evaluated: list[tuple[int, int]] = []
    ae.evaluate(student, teacher, list(rows), lambda done, of: evaluated.append((done, of)))
    done, of = zip(*evaluated, strict=True)
    assert list(done) == sorted(done) and len(done) > 1 and set(of) == {rows.size} and done[-1] == rows.size
