"""lm-evaluation-harness over our model: it says what our own evaluation says, and what its transformers model says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: make peer installs it")

from lm_eval.tasks import TaskManager  # noqa: E402

import attnedit as ae  # noqa: E402
from attnedit.data import Tokenizer  # noqa: E402
from attnedit.evaluate.loglikelihood import likelihoods  # noqa: E402
from attnedit.evaluate.task_scores import evaluate_tasks  # noqa: E402
from attnedit.evaluate.tasks import read_tasks  # noqa: E402
from attnedit.harness import AttnEditLM  # noqa: E402
from attnedit.models import load  # noqa: E402

TEACHER = Path(__file__).parents[3] / "examples" / "teacher"  # a Qwen3 of 2.0 M parameters that knows some Python
CHOICES = {
    "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
    "doc_to_text": "{{query}}{{'\nAnswer:' if query.startswith('Question:') else ''}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_bytes"}],
}  # fmt: skip
LAST_WORD = {  # as tasks/lambada/lambada_openai.yaml
    "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
    "doc_to_target": "{{' '+text.split(' ')[-1]}}", "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # a bootstrap is not worth processes here


def made_files(folder: Path) -> dict[str, Path]:
    """Code and what may follow it; letters beyond ASCII, so that characters and bytes differ."""
    rng = np.random.default_rng(0)
    codes = ["Question: import os, sys", "def __init__(self):", "for i in range(", "return", "class Größe:\n    def"]
    ends = ["None", "self._naïve = 0", "len(x)):", "os.path.join(ä, ö, ü)", "True", "raise ValueError('日本語')"]
    choice = [
        {"query": " ".join(rng.choice(codes, 3)), "choices": [*rng.choice(ends, 3, replace=False)],
         "gold": int(rng.integers(3))}
        for _ in range(16)
    ]  # fmt: skip
    last = [
        {"text": " ".join([*rng.choice(codes, 4), "return", str(rng.choice(["None", "self", "x"]))])} for _ in range(12)
    ]
    files = {"arc_made": choice, "lambada_made": last}
    for name, items in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return {name: folder / f"{name}.jsonl" for name in files}


def real_files(material: Path, folder: Path) -> dict[str, Path]:
    found = {}
    for name in ("arc_easy", "lambada_test"):
        lines = (material / "evals" / f"{name}.jsonl").read_text().splitlines()
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("\n".join(lines[:40]))
    return found


def harness(model: Any, files: dict[str, Path], **more: Any) -> dict[str, Any]:
    tasks = [
        {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}},
         "test_split": "test"} | (LAST_WORD if name.startswith("lambada") else CHOICES)
        for name, path in files.items()
    ]  # fmt: skip
    manager = TaskManager(include_defaults=False)  # reading its own thousands of tasks takes longer than all the rest
    found = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, **more)
    assert found is not None
    return found  # type: ignore[no-any-return]


def check(judged: Any, folder: Path, files: dict[str, Path]) -> None:
    """What the harness finds with a model of its, and what we find with the folder: item by item, then all figures."""
    theirs, model, tokenizer = harness(judged, files), load(folder), Tokenizer(folder)
    asked = [f"{name}={path}" for name, path in files.items()]
    ours = evaluate_tasks(model, model, tokenizer, asked)
    for task in read_tasks(asked, tokenizer, model.config.rope.max_position_embeddings):
        answers = iter(likelihoods(model, [request for item in task.items for request in item.requests]))
        samples = theirs["samples"][task.name]
        for item, sample in zip(task.items, sorted(samples, key=lambda each: each["doc_id"]), strict=True):
            got = [next(answers) for _ in item.requests]
            said = [response[0] for response in sample["resps"]]
            np.testing.assert_allclose([each.logprob for each in got], [each[0] for each in said], rtol=0, atol=1e-3)
            assert [each.is_greedy for each in got] == [each[1] for each in said]
        figures = theirs["results"][task.name]
        for metric, score in ours[task.name].teacher.items():
            assert figures[f"{metric},none"] == pytest.approx(score.value, rel=1e-3), (task.name, metric)
            near = {"rel": 1e-3} if metric == "perplexity" else {"abs": 1e-3}
            assert figures[f"{metric}_stderr,none"] == pytest.approx(score.stderr, **near), (task.name, metric)
    assert len({score.value for task in ours.values() for score in task.teacher.values()}) > 2  # they differ


def test_the_harness_and_our_evaluation_agree(tmp_path: Path) -> None:
    edited = ae.edit(load(TEACHER), ae.MLA(kv_lora_rank=64, init="svd"))
    student = ae.export(edited, tmp_path / "student", source=TEACHER)
    check(AttnEditLM(student), student, made_files(tmp_path))


def test_they_agree_on_real_items(material: Path, tmp_path: Path) -> None:
    folder = material / "models" / "stories260K"
    check(AttnEditLM(folder), folder, real_files(material, tmp_path))


@pytest.fixture(scope="module")
def peer() -> Any:
    """The harness's own way to run a model: transformers in float32."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which lm-eval's transformers model needs")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(TEACHER), dtype="float32", device="cpu", batch_size=8)


def test_its_transformers_model_says_the_same(peer: Any, tmp_path: Path) -> None:
    check(peer, TEACHER, made_files(tmp_path))


class Asked:
    def __init__(self, *args: Any) -> None:
        self.args = args


def test_rolling_and_generation_are_the_peers(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = AttnEditLM(TEACHER, batch_size=2)
    ours.max_length = 64
    monkeypatch.setattr(peer, "_max_length", 64)
    text = (TEACHER / "make_teacher.py").read_text()
    texts = [Asked(text[:40]), Asked(text[:1500]), Asked("x")]
    monkeypatch.setattr(
        peer, "add_bos_token", False
    )  # otherwise it predicts the token that documents begin with, from itself
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(texts, disable_tqdm=True), peer.loglikelihood_rolling(texts), rtol=0, atol=5e-3
    )
    monkeypatch.setattr(peer, "add_bos_token", None)
    # Longer than the context, a stop string, a batch of other lengths.
    until = {"until": ["\n\n", " ="], "do_sample": False, "max_gen_toks": 12}
    asked = [
        Asked("import ", until), Asked("def __init__(self):\n", {"until": [], "max_gen_toks": 7}),
        Asked(text[:900], until), Asked("class Error(", until),
    ]  # fmt: skip
    assert ours.generate_until(asked) == peer.generate_until(asked, disable_tqdm=True)


def test_chats_are_the_peers(tmp_path: Path) -> None:
    """A template that begins with the token that texts begin with, trims, and takes no system message."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which lm-eval's transformers model needs")
    from lm_eval.models.huggingface import HFLM

    folder = Path(shutil.copytree(TEACHER, tmp_path / "chat"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "# {{ m.role }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}# assistant:"
        "{% if enable_thinking is false %} pass{% endif %}{% endif %}"
    )
    assert settings["bos_token"]
    ours = AttnEditLM(folder, batch_size=4, enable_thinking=False)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4, enable_thinking=False)
    talk = [{"role": "user", "content": " def f(): "}, {"role": "assistant", "content": "return "}]
    for said, more in (
        (talk[:1], {}), (talk, {"add_generation_prompt": False}), (talk[:1], {"add_generation_prompt": True}),
    ):  # fmt: skip
        assert ours.apply_chat_template(said, **more) == theirs.apply_chat_template(said, **more)
    system = [{"role": "system", "content": "Be kind."}, *talk]
    with pytest.warns(UserWarning, match="the chat template takes no system message"):
        assert ours.apply_chat_template(system) == theirs.apply_chat_template(system)
    text = ours.apply_chat_template(talk[:1])
    assert ours.tok_encode(text) == theirs.tok_encode(text)
    assert ours.chat_template(True) == theirs.chat_template(True) and ours.chat_template(False) is None
    found = [
        harness(model, made_files(tmp_path), apply_chat_template=True, fewshot_as_multiturn=True)
        for model in (ours, theirs)
    ]
    for name in found[0]["results"]:
        for mine, other in zip(*(each["samples"][name] for each in found), strict=True):
            assert mine["arguments"] == other["arguments"] and "# assistant: pass" in str(mine["arguments"])
            for a, b in zip(mine["resps"], other["resps"], strict=True):
                assert a[0][0] == pytest.approx(b[0][0], abs=1e-3)
    with pytest.raises(ValueError, match="apply_chat_template must be true or default, got 'rag'"):
        ours.chat_template("rag")


def test_what_it_cannot_do_is_said() -> None:
    model = AttnEditLM(TEACHER)
    with pytest.raises(ValueError, match=r"a continuation must have 1 to 1024 tokens, as the model's context, got 0"):
        model.loglikelihood([Asked("a", "")])
    with pytest.raises(ValueError, match="max_gen_toks must be less than the context of 1024, got 1024"):
        model.generate_until([Asked("a", {"max_gen_toks": 1024})])
