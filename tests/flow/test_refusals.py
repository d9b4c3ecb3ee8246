"""What a conversion refuses, in one line, from the command line."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from command import ATTNEDIT, assert_refused, attnedit
from safetensors.numpy import load_file, save_file
from tiny import write_recipe

from attnedit.checkpoint.atomic import remove


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, modelwise={"tokens": 10_000_000})
    command = [*ATTNEDIT, "convert", str(recipe)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "run/edit").exists():
        time.sleep(0.01)
    second = attnedit("convert", recipe)
    first.kill()
    first.wait()
    assert_refused(second, "is in use by another process")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targett": 1}, "unknown key 'targett'; the known ones are teacher, target, data, run"),
        (
            {"target": {"attention": "mla", "kv_lora_rnk": 4}},
            "target: unknown key 'kv_lora_rnk'; the known ones are kv_lora_rank",
        ),
        ({"target": {"attention": "mamba"}}, "target: attention must be one of mla, gate_swa, got 'mamba'"),
        ({"target": {"attention": "mla", "kv_lora_rank": "many"}}, "kv_lora_rank"),
        ({"target": {"attention": "mla", "kv_lora_rank": 8, "v_head_dim": 4}}, "must equal o_proj's input width 32"),
        ({"data": {"train": ["nothing*.txt"]}}, "nothing*.txt"),
        ({"data": {"train": ["corpus.txt"], "sequence_length": 4096}}, "sequence_length must be at most"),
        ({"modelwise": {"learning_rate": "fast"}}, "learning_rate"),
        ({"layerwise": {"tokens": -5}}, "layerwise.tokens"),
        ({"modelwise": {"learning_rate": float("nan")}}, "modelwise.learning_rate"),
        ({"modelwise": {"batch_tokens": 10_000_000}}, "needs"),
        ({"teacher": "nowhere"}, "nowhere"),
        ({"memory_limit_gib": 1e-6}, "memory_limit_gib allows 1.05 KiB, but about "),
        ({"run": "corpus.txt"}, "run must be a folder"),
        ({"run": "."}, "holds corpus.txt"),
        ({"target": {"attention": "mla", "kv_lora_rank": 12, "layers": []}}, "layers must name at least one layer"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    done = attnedit("convert", write_recipe(tmp_path, **changes))
    assert_refused(done, message)
    assert not (tmp_path / "run/student").exists()


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    recipe.write_text("teacher: teacher\ndata: {train: [corpus.txt]}\n")
    assert_refused(attnedit("convert", recipe), "target is missing; run is missing")


def test_a_run_made_from_other_inputs_is_refused(finished: Path) -> None:
    text = (finished / "recipe.yaml").read_text()
    other = finished / "other.yaml"
    other.write_text(text.replace("kv_lora_rank: 12", "kv_lora_rank: 10"))
    assert_refused(attnedit("convert", other), "recipe.target.kv_lora_rank is 10 now and was 12")


def test_a_finished_run_is_not_taken_for_another_texts(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    with (tmp_path / "copy/corpus.txt").open("a") as file:
        file.write("\n\none more document")
    done = attnedit("convert", tmp_path / "copy/recipe.yaml")
    assert_refused(done, "was made from other inputs: corpus is ")
    # The copy's hashes are of files that lay elsewhere.
    assert f"({tmp_path / 'copy/corpus.txt'} is new, {finished / 'corpus.txt'} is gone); choose another" in done.stderr
    shutil.copy(finished / "corpus.txt", tmp_path / "copy")
    path = tmp_path / "copy/teacher/model.safetensors"
    save_file({name: 2 * array for name, array in load_file(path).items()}, path)
    assert_refused(attnedit("convert", tmp_path / "copy/recipe.yaml"), "was made from other inputs: teacher")


KEPT = [
    "tokens/*/heldout.safetensors", "edit/config.json", "edit/layer_001.safetensors",
    "layerwise/layer_001/attention.safetensors", "modelwise/state.safetensors",
]  # fmt: skip


def test_a_damaged_run_folder_is_named_and_mended(finished: Path, tmp_path: Path) -> None:
    """All that it keeps at once: the first is named, removed, and so on, until the same command ends as it did."""
    shutil.copytree(finished, tmp_path / "copy")
    run = tmp_path / "copy/run"
    shutil.rmtree(run / "student")
    damaged = [next(run.glob(pattern)) for pattern in KEPT]
    for path, damage in zip(damaged, ("cut", "empty", "folder", "link", "cut"), strict=True):
        kept = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage == "link":
            path.symlink_to(run)
        else:
            path.write_bytes(kept[:-9] if damage == "cut" else b"")
    while damaged:
        done = attnedit("convert", tmp_path / "copy/recipe.yaml")
        named = [path for path in damaged if str(path) in done.stderr]
        assert len(named) == 1, done.stderr
        assert_refused(done, "it is damaged; remove it to have it made again")
        remove(named[0])
        damaged.remove(named[0])
    assert attnedit("convert", tmp_path / "copy/recipe.yaml").returncode == 0
    path = Path("run/student/model.safetensors")
    assert (tmp_path / "copy" / path).read_bytes() == (finished / path).read_bytes()


def test_an_export_that_does_not_hold_leaves_nothing(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher/model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"] + np.float32(1e30)
    save_file(tensors, path)
    done = attnedit("export", tmp_path / "teacher", "--out", tmp_path / "out", "--dtype", "float16")
    assert_refused(done, "model.layers.1.mlp.down_proj.weight holds NaN or Inf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["teacher"]
    shutil.copy(finished / "corpus.txt", tmp_path)
    recipe = write_recipe(tmp_path, target={"attention": "mla", "kv_lora_rank": 12, "init": "svd"})
    assert_refused(attnedit("convert", recipe), "is nan")


def broken(folder: Path, change: str) -> Path:
    recipe = write_recipe(folder)
    path = folder / "teacher/model.safetensors"
    config = folder / "teacher/config.json"
    tensors = {k: v.copy() for k, v in load_file(path).items()}
    raw = json.loads(config.read_text())
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "missing":
        del tensors["model.layers.1.self_attn.k_proj.weight"]
        save_file(tensors, path)
    elif change == "shape":
        name = "model.layers.1.self_attn.k_proj.weight"
        tensors[name] = np.ascontiguousarray(tensors[name][:-1])
        save_file(tensors, path)
    elif change == "nan":
        tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.nan
        save_file(tensors, path)
    elif change == "type":
        config.write_text(json.dumps(raw | {"model_type": "gpt2"}))
    elif change == "vocabulary":
        for name in ("model.embed_tokens.weight",):
            tensors[name] = np.ascontiguousarray(tensors[name][:100])
        save_file(tensors, path)
        config.write_text(json.dumps(raw | {"vocab_size": 100}))
    elif change == "tiny":
        (folder / "corpus.txt").write_text("a tree")
    elif change == "empty":
        (folder / "corpus.txt").write_text("")
    elif change == "pickle":
        path.rename(folder / "teacher/pytorch_model.bin")
    return recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "model.safetensors"),
        ("missing", "model.layers.1.self_attn.k_proj.weight"),
        ("shape", "model.layers.1.self_attn.k_proj.weight must have shape (16, 24), got (15, 24)"),
        ("nan", "model.layers.0.mlp.up_proj.weight holds NaN or Inf"),
        ("type", "[config.json] model_type must be one of attnedit, deepseek_v3, "),
        ("vocabulary", "the tokenizer has 300 tokens, the teacher's vocabulary only 100"),
        ("tiny", "of 1 document none fell into the share of 0.1 that is held out"),
        ("empty", "corpus.txt"),
        ("pickle", "safetensors"),
    ],
)
def test_a_bad_checkpoint_or_corpus_is_refused_in_one_line(tmp_path: Path, change: str, message: str) -> None:
    assert_refused(attnedit("convert", broken(tmp_path, change)), message)
