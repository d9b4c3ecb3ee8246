"""The whole story on a tiny model, as people run it: from the command line, and killed."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import ATTNEDIT, assert_refused, attnedit
from tiny import EXPERTS, words, write_recipe, write_teacher

import attnedit as ae
from attnedit.checkpoint import write_sealed
from attnedit.data import Tokenizer
from attnedit.evaluate.report import markdown


def student_bytes(folder: Path) -> bytes:
    return (folder / "run/student/model.safetensors").read_bytes()


def test_the_report_has_what_is_promised(finished: Path) -> None:
    report = json.loads((finished / "run/report.json").read_text())
    phases = {"initial", "layerwise", "modelwise"}
    assert report["teacher"]["nll"] > 0 and set(report["student"]["nll"]) == phases
    assert set(report["kl"]) == phases == set(report["top1_agreement"])
    assert report["kl"]["modelwise"] < report["kl"]["initial"]
    assert report["kv_bytes_per_token"] == {"teacher": 2 * 2 * 2 * 2 * 8, "student": 2 * 2 * (12 + 8)}
    assert report["tokens"]["layerwise"] == report["tokens"]["modelwise"] == 49_920  # 195 steps of 8 rows of 32
    assert report["tokens"]["heldout_predictions"] > 100
    first, second = report["layers"]
    assert {"layer", "nmse_initial", "nmse_layerwise"} <= first.keys()
    assert 0 < first["learning_rate"] != second["learning_rate"] > 0 and report["modelwise"]["learning_rate"] > 0
    assert report["context"]["early"]["first"] == 0 and report["context"]["late"]["last"] == 30
    text = (finished / "run/report.md").read_text()
    for said in (
        "195 steps a layer of 8 x 32 tokens (49,920)",
        "early: positions 0 to ",
        f"{first['learning_rate']:.2e}",
    ):
        assert said in text
    assert "taken back" not in text
    back = report | {"layerwise_kept": False, "layers": [first | {"kept": False}, second]}
    text = markdown("run", back, [])
    assert "layer 0 worse and was taken back" in text and "phase 2 began as initialised" in text
    for name in ("report.md", "quality.png", "training.png", "provenance.json", "recipe.yaml"):
        assert (finished / "run" / name).stat().st_size > 100, name


def test_the_student_loads_and_its_quality_is_the_reported_one(finished: Path) -> None:
    report = json.loads((finished / "run/report.json").read_text())
    heldout = ["--text", finished / "heldout.txt", "--separator", "\n\n", "--sequence-length", 32]
    (finished / "heldout.txt").write_text(words(30, 7))
    again = attnedit("evaluate", finished / "run/student", "--teacher", finished / "teacher", *heldout)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["kl"] == pytest.approx(report["kl"]["modelwise"], rel=0.5)


def test_a_second_call_reuses_what_is_there(finished: Path) -> None:
    before = (finished / "run/student/model.safetensors").stat().st_mtime_ns
    again = attnedit("convert", finished / "recipe.yaml")
    assert again.returncode == 0, again.stderr
    assert (finished / "run/student/model.safetensors").stat().st_mtime_ns == before
    assert f"{finished}/run is finished" in again.stderr and f"{finished}/run/report.md" in again.stdout


def test_the_resolved_recipe_runs_from_anywhere(finished: Path) -> None:
    done = attnedit("convert", finished / "run/recipe.yaml")
    assert f"{finished}/run is finished" in done.stderr


@pytest.mark.parametrize(
    "target",
    [
        {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8},
        {"attention": "gate_swa", "sliding_window": 8},
    ],
)
def test_a_mixture_of_experts_goes_the_whole_way(tmp_path: Path, target: dict[str, Any]) -> None:
    recipe = write_recipe(tmp_path, EXPERTS, target=target)
    planned = attnedit("plan", recipe, "--context", 64)
    assert planned.returncode == 0 and "Decoder(qwen3_moe" in planned.stdout, planned.stderr
    done = attnedit("convert", recipe)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["kl"]["modelwise"] < report["kl"]["initial"]
    assert report["kv_bytes_per_token"]["student"] < report["kv_bytes_per_token"]["teacher"]
    student, teacher = ae.load(tmp_path / "run/student"), ae.load(tmp_path / "teacher")
    assert student.config.moe == EXPERTS
    theirs = dict(teacher.named_parameters())
    for path, parameter in student.named_parameters():
        if ".mlp." in path:
            assert np.array_equal(parameter.numpy(), theirs[path].numpy()), path
    copied = attnedit("export", tmp_path / "run/student", "--out", tmp_path / "copy", "--dtype", "bfloat16")
    assert copied.returncode == 0, copied.stderr
    held = ["--text", tmp_path / "corpus.txt", "--separator", "\n\n", "--sequence-length", 32]
    judged = attnedit("evaluate", tmp_path / "copy", "--teacher", tmp_path / "teacher", *held)
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["kl"] < 1.5 * report["kl"]["modelwise"]
    said = attnedit("generate", tmp_path / "copy", "--prompt", "the river", "--max-new-tokens", 5)
    assert said.returncode == 0 and said.stdout.startswith("the river"), said.stderr


@pytest.mark.parametrize("attention", ["mla", "gate_swa"])
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path: Path, finished: Path, attention: str) -> None:
    target = {"target": {"attention": "gate_swa", "sliding_window": 8}} if attention == "gate_swa" else {}
    if target:
        calm = tmp_path / "calm"
        calm.mkdir()
        assert attnedit("convert", write_recipe(calm, **target)).returncode == 0
        finished = calm
    folder = tmp_path / "killed"
    folder.mkdir()
    recipe = write_recipe(folder, **target)
    command = [*ATTNEDIT, "convert", str(recipe)]
    # Saves after every step, so that a kill finds a state to continue from in both phases.
    environment = os.environ | {"ATTNEDIT_SAVE_SECONDS": "0"}
    marks = ["provenance.json", "edit", "layerwise/layer_000", "layerwise/layer_001", "modelwise", "student"]
    kills = 0
    for mark in marks:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (folder / "run" / mark).exists():
            time.sleep(0.002)
        time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    assert attnedit("convert", recipe).returncode == 0
    assert student_bytes(folder) == student_bytes(finished)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint(tmp_path: Path, stop: signal.Signals) -> None:
    recipe = write_recipe(tmp_path, modelwise={"tokens": 10_000_000})
    command = [*ATTNEDIT, "convert", str(recipe)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run/modelwise/metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command continues" in said
    assert (tmp_path / "run/modelwise/state.safetensors").exists()


def test_what_makes_figures_worthless_is_told(finished: Path, tmp_path: Path) -> None:
    data = {"train": ["corpus.txt"], "heldout": ["corpus.txt"], "separator": "\n\n", "sequence_length": 32}
    done = attnedit("convert", write_recipe(tmp_path, data=data, layerwise={"tokens": 500}, modelwise={"tokens": 500}))
    assert done.returncode == 0 and "warning: 200 of 200 held-out documents are trained on too" in done.stderr
    text = (tmp_path / "teacher/tokenizer.json").read_text()
    (tmp_path / "teacher/tokenizer.json").write_text(text + " ")
    compared = ["--teacher", tmp_path / "teacher", "--text", tmp_path / "corpus.txt"]
    assert_refused(attnedit("evaluate", tmp_path / "run/student", *compared), "must have the same tokenizer.json")
    rows = attnedit("table", tmp_path / "run", finished / "run").stdout
    assert str(tmp_path / "run") in rows and str(finished / "run") in rows


def test_training_that_was_taken_back_is_told(tmp_path: Path) -> None:
    phase = {"tokens": 5_000, "learning_rate": 10.0}
    recipe = write_recipe(tmp_path, layerwise=phase, modelwise=phase)
    done = attnedit("convert", recipe)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert [layer["kept"] for layer in report["layers"]] == [False, False] and not report["modelwise"]["kept"]
    for said in ("phase 1 made 2 of 2 layers worse and was taken back there", "phase 2 made the model worse and was"):
        assert f"warning: {said}" in done.stderr
    calm = attnedit("convert", write_recipe(tmp_path, run="calm"))
    assert calm.returncode == 0 and "warning: phase" not in calm.stderr


def test_plan_info_generate_and_export_run(finished: Path, tmp_path: Path) -> None:
    planned = attnedit("plan", finished / "recipe.yaml", "--context", 64)
    assert planned.returncode == 0 and "(-37.5 %)" in planned.stdout, planned.stdout + planned.stderr
    assert "2 MLA" in attnedit("info", finished / "run/student").stdout
    text = attnedit("generate", finished / "run/student", "--prompt", "the river", "--max-new-tokens", 5)
    assert text.returncode == 0 and "the river" in text.stdout, text.stderr
    assert_refused(attnedit("generate", finished / "teacher", "--prompt", "a", "--seed", -1), "--seed")
    write_sealed(tmp_path / "report.json", {})
    assert_refused(attnedit("table", tmp_path), "'teacher' is missing")
    assert_refused(attnedit("convert", finished), f"{finished}: must be a recipe, a YAML file, got a folder")
    done = attnedit("export", finished / "run/student", "--out", tmp_path / "out", "--format", "deepseek_v3")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "deepseek_v3" and config["kv_lora_rank"] == 12
    assert (tmp_path / "out/tokenizer.json").exists()
    assert "2 MLA" in attnedit("info", tmp_path / "out").stdout
    assert "attnedit: logits up to" in done.stdout and "KL" in done.stdout
    assert_refused(
        attnedit("export", finished / "teacher", "--out", tmp_path / "no", "--format", "deepseek_v3"),
        "deepseek_v3 cannot hold this model: every layer must be MLA, layer 0 is not; attnedit, ",
    )


def test_plan_looks_for_the_text(finished: Path) -> None:
    planned = attnedit("plan", finished / "recipe.yaml")
    assert planned.returncode == 0, planned.stderr
    said, made, evaluations = planned.stdout.splitlines()[-3:]
    assert said.startswith("text: ") and made.startswith("tokens: ") and evaluations.startswith("evaluations: ")
    predicted = json.loads((finished / "run/report.json").read_text())["tokens"]["heldout_predictions"]
    documents, tokens = (int(part.split()[-2].replace(",", "")) for part in evaluations.split(":")[1].split(", ")[1:])
    assert tokens - documents == pytest.approx(predicted, rel=0.25)
    assert "1 file, about " in said and "tokens by a sample; phase 1 reads 49,920, phase 2 reads 49,920" in said
    kept = sum(path.stat().st_size for path in (finished / "run/tokens").rglob("00*.safetensors")) / 1024
    assert float(made.split(" about ")[1].split(" KiB")[0]) == pytest.approx(kept, rel=0.2)
    told = int(said.split("about ")[1].split(" tokens")[0].replace(",", ""))
    text = (finished / "corpus.txt").read_text()
    assert told == pytest.approx(len(Tokenizer(finished / "teacher").encode_documents([text])[0]), rel=0.1)
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    for train, message in (
        ("nothing/*.txt", f"a file must match '{finished}/nothing/*.txt', got none"),
        ("short.txt", "[data] a step needs 256 tokens of text, 1 file in data.train hold about "),
        ("empty.txt", "there must be some text in "),
    ):
        (finished / "short.txt").write_text("the river")
        (finished / "empty.txt").write_text(" ")
        (finished / "other.yaml").write_text(yaml.safe_dump(recipe | {"data": recipe["data"] | {"train": [train]}}))
        assert_refused(attnedit("plan", finished / "other.yaml"), message)


def test_the_students_card_has_what_the_run_measured(finished: Path) -> None:
    card = (finished / "run/student/README.md").read_text()
    report = json.loads((finished / "run/report.json").read_text())
    assert f"| KL to the base model, nats/token | | {report['kl']['modelwise']:.4f} |" in card
    assert f"| NLL, nats/token | {report['teacher']['nll']:.4f} |" in card and "kv_lora_rank: 12" in card
    teacher = json.loads((finished / "run/provenance.json").read_text())["teacher"]
    assert f"- teacher (SHA-256): `{teacher}`" in card and "(-37.5 %)" in card
    assert "base_model: teacher\n" in card and str(finished) not in card


def test_a_run_is_exported_with_its_story(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    done = attnedit("export", tmp_path / "run", "--out", tmp_path / "out", "--format", "youtu")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out/README.md").read_text()
    report = json.loads((finished / "run/report.json").read_text())
    assert "base_model: teacher\n" in card and "kv_lora_rank: 12" in card
    assert f"| KL to the base model, nats/token | | {report['kl']['modelwise']:.4f} |" in card
    teacher = json.loads((finished / "run/provenance.json").read_text())["teacher"]
    assert f"- teacher (SHA-256): `{teacher}`" in card and "(-37.5 %)" in card
    assert str(finished) not in card  # nobody's disk is published
    again = attnedit("export", tmp_path / "run/student", "--out", tmp_path / "again", "--format", "youtu")
    assert again.returncode == 0 and (tmp_path / "again/README.md").read_text() == card.replace("# out", "# again")
    whole = (tmp_path / "run/report.json").read_bytes()
    write_sealed(tmp_path / "run/report.json", {})
    refused = attnedit("export", tmp_path / "run", "--out", tmp_path / "no", "--format", "youtu")
    assert_refused(refused, "run/report.json must be of a finished run of this version, 'teacher' is missing")
    (tmp_path / "run/recipe.yaml").write_text("teacher: [")
    (tmp_path / "run/report.json").write_bytes(whole)
    assert_refused(
        attnedit("export", tmp_path / "run", "--out", tmp_path / "no"), "run/recipe.yaml must be YAML: line 1"
    )
    shutil.rmtree(tmp_path / "run/student")
    assert_refused(attnedit("export", tmp_path / "run", "--out", tmp_path / "no"), "is a run without a student yet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "out", "run"]


def test_the_notebook_story(tmp_path: Path) -> None:
    teacher = ae.load(write_teacher(tmp_path / "teacher", words(20, 0)))
    tokens = np.random.default_rng(0).integers(0, 300, (40, 32)).astype(np.int32)
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8), tokens)
    ae.distill.layerwise(student, teacher, tokens, ae.distill.LayerwiseOptions(tokens=1000))
    ae.distill.modelwise(student, teacher, tokens, ae.distill.ModelwiseOptions(tokens=1000))
    report = ae.evaluate(student, teacher, list(tokens[:8]))
    assert 0 <= report.kl < 5
    again = ae.load(ae.export(student, tmp_path / "out"))
    np.testing.assert_array_equal(again.logits(tokens[:1]).numpy(), student.logits(tokens[:1]).numpy())
