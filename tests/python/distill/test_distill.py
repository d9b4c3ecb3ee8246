"""Both phases on a tiny model: what trains, what stays, and that a kill changes nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnedit as ae
from attnedit import distill, runtime
from attnedit.distill.loop import Losses, Saved, descend, train
from attnedit.distill.optimizer import Method, Optimizer
from attnedit.distill.schedule import Schedule
from attnedit.models import Decoder

PHASE1 = distill.LayerwiseOptions(tokens=32 * 60, batch_tokens=32, learning_rate=1e-2)
PHASE2 = distill.ModelwiseOptions(tokens=32 * 60, batch_tokens=32, learning_rate=3e-3)


def student_of(teacher: Decoder, rows: np.ndarray, init: str = "random") -> Decoder:
    return ae.edit(teacher, ae.MLA(kv_lora_rank=16, qk_rope_head_dim=8, init=init), rows)  # type: ignore[arg-type]


def bits(model: Decoder) -> dict[str, np.ndarray]:
    return {path: parameter.numpy().copy() for path, parameter in model.named_parameters()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_layerwise_brings_every_layers_error_down(teacher: Decoder, rows: np.ndarray) -> None:
    before = bits(teacher)
    results = distill.layerwise(student_of(teacher, rows), teacher, rows, PHASE1)
    assert [r.layer for r in results] == [0, 1]
    assert all(r.nmse_layerwise < 0.8 * r.nmse_initial for r in results), results
    assert_same(bits(teacher), before)


def test_layers_alone_together_and_in_any_order_give_the_same_bits(teacher: Decoder, rows: np.ndarray) -> None:
    together, one_by_one = student_of(teacher, rows), student_of(teacher, rows)
    distill.layerwise(together, teacher, rows, PHASE1)
    distill.layerwise(one_by_one, teacher, rows, PHASE1, layers=[1])
    distill.layerwise(one_by_one, teacher, rows, PHASE1, layers=[0])
    assert_same(bits(together), bits(one_by_one))


def test_a_stopped_phase_1_goes_on_at_its_layer(teacher: Decoder, rows: np.ndarray, tmp_path: Path) -> None:
    undisturbed, student = student_of(teacher, rows), student_of(teacher, rows)
    expected = distill.layerwise(undisturbed, teacher, rows, PHASE1)

    def stop(layer: int, step: int, *_: object) -> None:
        if layer == 1 and step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill.layerwise(student, teacher, rows, PHASE1, folder=tmp_path, on_step=stop)
    assert (tmp_path / "activations/hidden.safetensors").exists()
    again, told = student_of(teacher, rows), set[tuple[int, bool]]()
    first, teacher.layers[0] = teacher.layers[0], teacher.layers[1]  # nothing is computed before layer 1 again
    results = distill.layerwise(
        again, teacher, rows, PHASE1, folder=tmp_path, on_step=lambda layer, _, steps, __: told.add((layer, steps > 0))
    )
    teacher.layers[0] = first
    assert results == expected and told == {(0, False), (1, True)}
    assert_same(bits(again), bits(undisturbed))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer_000", "layer_001"]
    finished = student_of(teacher, rows)
    assert distill.layerwise(finished, teacher, rows, PHASE1, folder=tmp_path) == expected
    assert_same(bits(finished), bits(undisturbed))


def test_activations_in_bfloat16_teach_as_much(teacher: Decoder, rows: np.ndarray) -> None:
    exact, rounded = (
        distill.layerwise(student_of(teacher, rows), teacher, rows, replace(PHASE1, activations=dtype))  # type: ignore[arg-type]
        for dtype in ("float32", "bfloat16")
    )
    for a, b in zip(exact, rounded, strict=True):
        assert a != b and a.nmse_layerwise == pytest.approx(b.nmse_layerwise, rel=0.02)


def test_modelwise_brings_kl_down_and_trains_attention_only(teacher: Decoder, rows: np.ndarray) -> None:
    student = student_of(teacher, rows)
    distill.layerwise(student, teacher, rows, PHASE1)
    before = ae.evaluate(student, teacher, list(rows)).kl
    result = distill.modelwise(student, teacher, rows, PHASE2)
    assert result.kept
    assert ae.evaluate(student, teacher, list(rows)).kl < 0.9 * before
    theirs = dict(teacher.named_parameters())
    assert all(p is theirs[path] for path, p in student.named_parameters() if "self_attn" not in path)


@pytest.mark.parametrize("trained", ["attention", "attention+norms", "all"])
def test_the_trainable_set_is_what_changes(teacher: Decoder, rows: np.ndarray, trained: str) -> None:
    student, before = student_of(teacher, rows), bits(teacher)
    options = distill.ModelwiseOptions(tokens=32 * 12, batch_tokens=32, learning_rate=1e-3, train=trained)  # type: ignore[arg-type]
    distill.modelwise(student, teacher, rows, options)
    changed = {
        path for path, values in bits(student).items() if path in before and not np.array_equal(values, before[path])
    }
    norms = {path for path in before if "layernorm" in path or path == "norm.weight"}
    rest = {path for path in before if "self_attn" not in path} - norms
    assert norms <= changed if trained != "attention" else not norms & changed
    assert rest <= changed if trained == "all" else not rest & changed
    assert_same(bits(teacher), before)


def test_recomputed_blocks_give_the_same_bits(teacher: Decoder, rows: np.ndarray) -> None:
    students = [student_of(teacher, rows) for _ in range(2)]
    for student, recompute in zip(students, (False, True), strict=True):
        # Features give a block output a third gradient, and sums of three depend on their order.
        options = distill.ModelwiseOptions(
            tokens=32 * 6, batch_tokens=32, learning_rate=1e-3, recompute=recompute, feature_weight=0
        )
        distill.modelwise(student, teacher, rows, options)
    assert_same(bits(students[0]), bits(students[1]))


def test_a_cached_teacher_gives_the_live_ones_bits(teacher: Decoder, rows: np.ndarray, tmp_path: Path) -> None:
    students = [student_of(teacher, rows) for _ in range(3)]
    options = replace(PHASE2, feature_weight=0, tokens=32 * 20)
    distill.modelwise(students[0], teacher, rows, options)
    distill.modelwise(students[1], teacher, rows, replace(options, teacher="cached"))

    def stop(step: int, *_: object) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill.modelwise(students[2], teacher, rows, replace(options, teacher="cached"), tmp_path, on_step=stop)
    path = tmp_path / "activations/hidden.safetensors"
    path.write_bytes(path.read_bytes()[:-3] + b"\1\2\3")
    students[2] = student_of(teacher, rows)
    with pytest.warns(UserWarning, match="row 11 does not have its checksum; it is computed again"):
        distill.modelwise(students[2], teacher, rows, replace(options, teacher="cached"), tmp_path)
    assert not path.exists()
    assert_same(bits(students[0]), bits(students[1]))
    assert_same(bits(students[0]), bits(students[2]))
    with pytest.raises(ValueError, match=r"feature_weight must be 0 with teacher: cached, got 0\.05"):
        replace(PHASE2, teacher="cached")


def test_a_phase_that_makes_it_worse_is_taken_back(teacher: Decoder, rows: np.ndarray) -> None:
    student = student_of(teacher, rows, "regression")
    before = bits(student)
    result = distill.modelwise(
        student, teacher, rows, distill.ModelwiseOptions(tokens=32 * 12, batch_tokens=32, learning_rate=1.0, clip=1e9)
    )
    assert not result.kept and result.probe_kl_after > result.probe_kl_before
    assert_same(bits(student), before)


def test_a_layer_that_gets_worse_is_taken_back_and_says_so(teacher: Decoder, rows: np.ndarray) -> None:
    student = student_of(teacher, rows, "regression")
    before = bits(student)
    options = distill.LayerwiseOptions(tokens=32 * 12, batch_tokens=32, learning_rate=10.0)
    for result in distill.layerwise(student, teacher, rows, options):
        assert (result.kept, result.learning_rate, result.steps, result.rows) == (False, 10.0, 12, 1)
        assert result.nmse_layerwise == result.nmse_initial
    assert_same(bits(student), before)


@pytest.mark.parametrize("text", ["often", "", "nan", "-1", "inf", "1e400"])
def test_a_wrong_number_in_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ATTNEDIT_SAVE_SECONDS", text)
    with pytest.raises(ValueError, match=f"ATTNEDIT_SAVE_SECONDS must be a number of seconds, got '{text}'"):
        Saved(tmp_path)
    monkeypatch.setenv("ATTNEDIT_SAVE_SECONDS", "0")
    assert Saved(tmp_path).due(0.001, 1)


def test_states_that_take_long_are_written_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTNEDIT_SAVE_SECONDS", raising=False)
    times = [(59, 0.1), (61, 0.1), (61, 10), (199, 10), (201, 10)]
    assert [Saved(tmp_path).due(*each) for each in times] == [False, True, False, False, True]
    monkeypatch.setenv("ATTNEDIT_SAVE_SECONDS", "5")
    assert [Saved(tmp_path).due(since, 10) for since in (4, 6)] == [False, True]


def test_a_nan_stops_with_the_step_and_the_student_as_it_was(
    teacher: Decoder, rows: np.ndarray, tmp_path: Path
) -> None:
    student = student_of(teacher, rows)
    before = bits(student)
    with pytest.raises(
        distill.NotFinite,
        match=r"\[modelwise\] kl is nan at step \d+ of 12; the first bad parameter is layers.0.self_attn",
    ):
        distill.modelwise(
            student,
            teacher,
            rows,
            distill.ModelwiseOptions(tokens=32 * 12, batch_tokens=32, learning_rate=1e30, clip=1e30),
            tmp_path,
        )
    assert_same(bits(student), before)


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["adamw", "soap"])
@pytest.mark.parametrize("at", [1, 7, 29])
def test_a_stopped_loop_continues_with_the_same_bits(tmp_path: Path, at: int, method: Method) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4, 8)).astype(np.float32)

    def run(folder: Path, stop: int | None) -> np.ndarray:
        w = ae.tensor(np.eye(8), requires_grad=True)
        optimizer = Optimizer({"w": w}, method, clip=0.5)

        def losses_of(step: int) -> Losses:
            if step == stop:
                raise Stop
            from attnedit import ops
            from attnedit.tensor import full

            y = ops.linear(ae.tensor(x[step][None]), w)
            return descend({"loss": ops.fused_mse(y, ae.tensor(-x[step][None]), full((4,), 1.0)).loss})

        train("loop", losses_of, optimizer, Schedule(1e-2, 30), Saved(folder, every_seconds=0.0))
        return w.numpy().copy()

    undisturbed = run(tmp_path / "a", None)
    with pytest.raises(Stop):
        run(tmp_path / "b", at)
    np.testing.assert_array_equal(run(tmp_path / "b", None), undisturbed)


@pytest.mark.parametrize("phase", ["layerwise", "modelwise"])
def test_a_step_takes_no_fresh_memory_after_the_first(teacher: Decoder, rows: np.ndarray, phase: str) -> None:
    """Fresh pages cost more than arithmetic: whatever a step needs is in the pool since the first ones."""
    student, reserved = student_of(teacher, rows), []

    def watch(*_: object) -> None:
        reserved.append(runtime.memory_stats()["reserved_bytes.all.current"])

    if phase == "layerwise":
        distill.layerwise(student, teacher, rows, PHASE1, layers=[0], on_step=watch)
    else:
        distill.modelwise(student, teacher, rows, PHASE2, on_step=watch)
    assert len(reserved) > 12 and len(set(reserved[2:])) == 1
