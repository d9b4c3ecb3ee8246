"""Every format in the stock class that it is named after: logits in eager, sdpa and over a cache, and generation."""

import json
from pathlib import Path
from typing import Any

import pytest
from students import LAYERS, student

torch = pytest.importorskip("torch", reason="torch is not installed: make test makes an environment that has it")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import attnedit as ae  # noqa: E402
from attnedit.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from attnedit.export import known_formats  # noqa: E402
from attnedit.export.in_transformers import examine  # noqa: E402
from attnedit.export.parity import Parity, judged, probe_for  # noqa: E402
from attnedit.models import Decoder  # noqa: E402

CLASSES = {
    "deepseek_v3": "DeepseekV3", "youtu": "Youtu", "lfm3": "Lfm3", "laguna": "Laguna", "qwen3_5_text": "Qwen3_5",
    "qwen3_next": "Qwen3Next", "qwen3": "Qwen3", "mellum": "Mellum", "qwen2": "Qwen2", "llama": "Llama",
    "mistral4": "Mistral4", "qwen3_moe": "Qwen3Moe", "attnedit": "AttnEdit",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def in_transformers(model: Decoder, folder: Path) -> tuple[str, list[Parity]]:
    probe = probe_for(model.config)
    theirs = examine(folder, probe.tokens, probe.positions, probe.new_tokens)
    return theirs["name"], judged(model, ae.load(folder), probe, theirs)


def assert_holds(figures: list[Parity], tolerance: float = 5e-5) -> None:
    """A few tokens may be that far off: a norm or random experts enlarge rounding."""
    assert [figure.reader.split(", ")[-1] for figure in figures] == ["eager", "sdpa", "cached"]
    for figure in figures:
        assert figure.largest > 2, figure
        assert figure.difference < tolerance * figure.largest, figure.line()
    assert figures[-1].generation_equal


def test_every_format_has_its_class() -> None:
    assert sorted(CLASSES) == sorted(LAYERS) == known_formats()


@pytest.mark.parametrize("variant", range(4))
@pytest.mark.parametrize("format", CLASSES)
def test_a_student_in_its_stock_class(tmp_path: Path, format: str, variant: int) -> None:
    model = student(format, variant)
    name, figures = in_transformers(model, ae.export(model, tmp_path / "out", format))
    assert name == f"{CLASSES[format]}ForCausalLM"
    assert_holds(figures)


@pytest.mark.parametrize("format", ["deepseek_v3", "lfm3", "attnedit"])
def test_a_bfloat16_folder_holds_the_rounded_weights(tmp_path: Path, format: str) -> None:
    """Ungated layers among gated ones, doubled o_proj included: what is read is the rounding of the student's own."""
    model = student(format)
    folder = ae.export(model, tmp_path / "out", format, dtype="bfloat16")
    name, figures = in_transformers(ae.load(folder), folder)
    assert name == f"{CLASSES[format]}ForCausalLM"
    assert_holds(figures)


def test_verify_runs_another_interpreter_and_tells_its_figures(tmp_path: Path) -> None:
    told: list[str] = []
    folder = ae.export(student("lfm3"), tmp_path / "out", "lfm3", verify="transformers", say=told.append)
    assert len(told) == 4 and told[0].startswith("attnedit: ") and "Lfm3ForCausalLM" in told[-1]
    assert "greedy generation with cache equal" in told[-1]
    card = (folder / "README.md").read_text()
    assert f"| Lfm3ForCausalLM, transformers {transformers.__version__}, cached |" in card


def test_verify_stops_at_a_folder_that_the_class_reads_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's eps on its latent norms: our folder says nothing of it, and DeepSeek's class has its own."""
    monkeypatch.setattr("attnedit.nn.mla.LATENT_NORM_EPS", 0.5)
    with pytest.raises(RuntimeError, match=r"DeepseekV3ForCausalLM.*does not compute what the folder holds"):
        ae.export(student("deepseek_v3"), tmp_path / "out", "deepseek_v3", verify="transformers")
    assert list(tmp_path.iterdir()) == []


EDITS = {
    "deepseek_v3": ae.MLA(kv_lora_rank=10, qk_rope_head_dim=8, init="svd"),
    "youtu": ae.MLA(kv_lora_rank=10, qk_rope_head_dim=8, init="svd"),
    "attnedit": ae.GateSWA(sliding_window=32, full_layers=(0, 4)),
    "llama": None,
}


@pytest.mark.parametrize("format", EDITS)
def test_stories260k(material: Path, tmp_path: Path, format: str) -> None:
    """Real weights and a real tokenizer, which gives the same ids from the exported folder."""
    source = material / "models/stories260K"
    teacher, edit = ae.load(source), EDITS[format]
    model = teacher if edit is None else ae.edit(teacher, edit)
    folder = ae.export(model, tmp_path / "out", format, source)
    name, figures = in_transformers(model, folder)
    assert name == f"{CLASSES[format]}ForCausalLM"
    assert_holds(figures)
    text = "Once upon a time there was a dog."
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(path)(text)["input_ids"] for path in (source, folder))
    assert theirs == ours and len(ours) > 5


def test_shards_and_their_index(tmp_path: Path) -> None:
    model = student("lfm3")
    whole = Checkpoint.open(ae.export(model, tmp_path / "whole", "lfm3"))
    save_checkpoint(tmp_path / "sharded", whole.config, whole.tensors, shard_bytes=20_000)
    assert len(list((tmp_path / "sharded").glob("model-*-of-*.safetensors"))) > 2
    assert_holds(in_transformers(model, tmp_path / "sharded")[1])


THETA = {"rope_theta": None, "rope_scaling": None}
TRAPS: dict[str, tuple[str, dict[str, Any]]] = {  # keys of config.json that a class reads otherwise, or without a word
    "youtu zeroes the padding token": ("youtu", {"pad_token_id": 7}),
    "half-split rows": ("deepseek_v3", {"rope_interleave": False}),
    "no theta": ("deepseek_v3", {**THETA, "rope_parameters": {"rope_type": "linear", "factor": 2.5}}),
    "no key for the eps": ("lfm3", {"norm_eps": None}),
    "no gate": ("lfm3", {"use_attention_gate": False}),
    "a window that is one off": ("lfm3", {"sliding_window": 6}),
    "half of the dims rotate": ("laguna", {"rope_parameters": None}),
    "all layers full": ("laguna", {"layer_types": None}),
    "another gate": ("laguna", {"gating": "per-head"}),
    "a quarter of the dims rotate": ("qwen3_5_text", {**THETA, "rope_parameters": None, "partial_rotary_factor": None}),
    "nothing slides": ("qwen3", {"use_sliding_window": False}),
    "nested theta": ("mellum", {"rope_parameters": None}),
    "heads": ("llama", {"num_attention_heads": 2}),
    "a layer's activation": ("attnedit", {"attention": "sigmoid"}),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_probe_sees_what_the_classes_trip_over(tmp_path: Path, trap: str) -> None:
    format, change = TRAPS[trap]
    model = student(format, {"no theta": 1, "no key for the eps": 2}.get(trap, 0))  # not the classes' own defaults
    folder = ae.export(model, tmp_path / "out", format)
    probe = probe_for(model.config)
    again = ae.load(folder)
    raw = json.loads((folder / "config.json").read_text())
    if "attention" in change:
        for layer in raw["attention"]:
            layer |= {"gate": "sigmoid"} if "gate" in layer else {}
    else:
        raw = {key: value for key, value in (raw | change).items() if value is not None or key not in change}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        judged(model, again, probe, examine(folder, probe.tokens, probe.positions, probe.new_tokens))
