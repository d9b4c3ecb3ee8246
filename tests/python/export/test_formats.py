"""Formats without the engines that they are for: what is written is what is read, and what does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from students import EXPERTS, LATENT, LAYERS, gated, grouped, per_element, student
from tiny import random_decoder, tiny_config

import attnedit as ae
from attnedit.export import known_formats
from attnedit.models import Decoder

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 40)).astype(np.int32)


def logits(model: Decoder) -> np.ndarray:
    return model.logits(TOKENS).numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("format", LAYERS)
def test_every_format_reads_back(tmp_path: Path, format: str, dtype: Any) -> None:
    """float32 as it is; bfloat16 as the rounding of the student's own weights, where the format adds none."""
    model = student(format)
    if dtype == "bfloat16" and format == "laguna":  # o_proj / ln 2 is no number of 8 bits: only where all are gated
        model = random_decoder(replace(model.config, attention=model.config.attention[:3]))
    if dtype == "bfloat16":
        for path, parameter in list(model.named_parameters()):
            rounded = parameter.numpy().astype(ml_dtypes.bfloat16)
            if format.startswith("qwen3_") and path.endswith("norm.weight"):  # 7 bits of w - 1 hold these
                rounded = np.round(rounded.astype(np.float32) * 64) / 64
            model.set_parameter(path, ae.tensor(rounded.astype(np.float32)))
    folder = ae.export(model, tmp_path / "out", format, dtype=dtype)
    ours, theirs = logits(model), logits(ae.load(folder))
    assert np.abs(ours).max() > 2
    allowed = 1e-5 if format == "laguna" else 0.0
    assert np.abs(ours - theirs).max() <= allowed
    stored = load_file(folder / "model.safetensors")
    assert {array.dtype.name for array in stored.values()} == {dtype}
    raw = json.loads((folder / "config.json").read_text())
    assert raw["dtype"] == raw["torch_dtype"] == dtype and raw["model_type"] == format


REFUSED = {
    "MLA in some layers": ((LATENT, grouped()), {}, {
        "deepseek_v3": "every layer must be MLA, layer 1 is not", "lfm3": "layer 0 is MLA", "llama": "layer 0 is MLA",
    }, ["attnedit"]),
    "two sizes of MLA": ((LATENT, replace(LATENT, kv_lora_rank=8)), {}, {
        "youtu": "all layers must have the same MLA dimensions",
    }, ["attnedit"]),
    "MLA with biases in the MLP": ((LATENT, LATENT), {"mlp_bias": True}, {
        "deepseek_v3": "the MLP must have no bias",
    }, ["attnedit"]),
    "sigmoid per element with a window": ((per_element(sliding_window=5), gated()), {}, {
        "lfm3": "the gate must be per head, layer 0 has it per element", "laguna": "the gate must be softplus",
        "qwen3_next": "every layer must see the whole context, layer 0 has sliding_window 5",
        "mellum": "no layer can have an output gate, layer 0 has one",
    }, ["attnedit"]),
    "gate without QK-norm": ((gated(qk_norm=False),), {}, {
        "lfm3": "queries and keys must be normed (QK-norm), layer 0 does otherwise",
        "llama": "no layer can have an output gate",
    }, ["attnedit"]),
    "window without QK-norm": ((grouped(qk_norm=False, sliding_window=4),), {}, {
        "llama": "every layer must see the whole context, layer 0 has sliding_window 4",
        "qwen2": "biases of the attention cannot be as in layer 0: no bias on queries, keys and values",
    }, ["attnedit"]),
    "two windows": ((gated(sliding_window=4), gated(sliding_window=5)), {}, {
        "lfm3": "all layers must have the same sliding_window, got 4 and 5",
    }, ["attnedit"]),
    "a window of one": ((grouped(sliding_window=1), grouped()), {}, {
        "qwen3": "sliding_window must be at least 2, layer 0 has 1",
    }, ["attnedit"]),
    "another eps in QK-norm": ((grouped(norm_eps=1e-3),), {}, {
        "qwen3": "QK-norm must have rms_norm_eps 1e-06, layer 0 has 0.001",
    }, ["attnedit"]),
    "other heads in some layers": ((grouped(), replace(grouped(), num_key_value_heads=4)), {}, {
        "mellum": "all layers must have the same heads and head_dim",
    }, ["attnedit"]),
    "MLA with experts": ((LATENT, LATENT), {"moe": EXPERTS}, {
        "deepseek_v3": "the MLP must be dense, without experts", "qwen3_moe": "layer 0 is MLA",
    }, ["attnedit", "mistral4"]),
    "MLA with a dense layer after experts": ((LATENT,) * 2, {"moe": replace(EXPERTS, mlp_only_layers=(1,))}, {
        "mistral4": "dense layers must come before all that have experts",
    }, ["attnedit"]),
    "MLA without experts": ((LATENT, LATENT), {}, {
        "mistral4": "the MLP must be a mixture of experts",
    }, ["attnedit", "deepseek_v3", "youtu"]),
    "experts behind a gate and a window": ((gated(sliding_window=5), gated()), {"moe": EXPERTS}, {
        "lfm3": "the MLP must be dense, without experts", "qwen3_next": "every layer must see the whole context",
        "mellum": "no layer can have an output gate", "laguna": "the gate must be softplus",
    }, ["attnedit"]),
    "experts behind a gate": ((gated(), per_element()), {"moe": EXPERTS}, {
        "qwen3_5_text": "the MLP must be dense, without experts",
    }, ["attnedit", "qwen3_next"]),
    "experts, some layers with a window": ((grouped(sliding_window=5), grouped()), {"moe": EXPERTS}, {
        "qwen3_moe": "all layers must slide or none", "qwen3": "the MLP must be dense, without experts",
    }, ["attnedit", "mellum"]),
    "a plain Qwen3-MoE": ((grouped(), grouped()), {"moe": EXPERTS}, {
        "qwen3": "the MLP must be dense, without experts",
    }, ["attnedit", "mellum", "qwen3_moe", "qwen3_next"]),
    "a plain Qwen3": ((grouped(), grouped()), {}, {
        "llama": "queries and keys must not be normed", "deepseek_v3": "every layer must be MLA",
    }, ["attnedit", "laguna", "lfm3", "mellum", "qwen3", "qwen3_5_text", "qwen3_next"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_its_property(tmp_path: Path, case: str) -> None:
    layers, changes, messages, able = REFUSED[case]
    model = random_decoder(tiny_config(attention=layers, **changes))
    for format, message in messages.items():
        with pytest.raises(ValueError) as refused:
            ae.export(model, tmp_path / "out", format)
        assert f"[export] {format} cannot hold this model: " in str(refused.value) and message in str(refused.value)
        assert str(refused.value).endswith(f"; {', '.join(able)} can")
    assert list(tmp_path.iterdir()) == []
    for format in able:
        assert np.abs(logits(ae.load(ae.export(model, tmp_path / format, format))) - logits(model)).max() < 1e-5


def test_a_format_that_rounds_more_than_its_dtype_is_refused(tmp_path: Path) -> None:
    """w - 1 in bfloat16 where w is small, and a softplus gate that is undone by dividing by ln 2."""
    small = student("qwen3_next")
    for path, parameter in list(small.named_parameters()):
        if path.endswith(("q_norm.weight", "k_norm.weight")):
            small.set_parameter(path, ae.tensor(parameter.numpy() * 0.05))
    for model, format in ((small, "qwen3_next"), (student("laguna"), "laguna")):
        with pytest.raises(ValueError, match=rf"{format} cannot hold this model in bfloat16: .*; float32 can"):
            ae.export(model, tmp_path / "out", format, dtype="bfloat16")
        assert list(tmp_path.iterdir()) == []
        ae.export(model, tmp_path / format, format, dtype="float32")
        (tmp_path / format).rename(tmp_path.with_name(f"{tmp_path.name}-{format}"))


def test_the_padding_token_of_youtu(tmp_path: Path) -> None:
    """Its class zeroes that embedding: config.json has none, generation_config.json keeps it."""
    folder = ae.export(student("youtu"), tmp_path / "out", "youtu")
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] is None
    assert json.loads((folder / "generation_config.json").read_text())["pad_token_id"] == 7
    raw = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 7}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="pad_token_id must be null in model_type youtu"):
        ae.load(folder)


@pytest.mark.parametrize(
    ("format", "change", "message"),
    [
        ("lfm3", {"use_sandwich_norm": True}, "use_sandwich_norm must be False, got True"),
        ("lfm3", {"layer_types": ["conv"] * 5}, "layer_types.0 must be 'full_attention' or 'sliding_attention'"),
        ("laguna", {"mlp_layer_types": ["sparse"] * 5}, "mlp_layer_types.0 must be 'dense'"),
        ("laguna", {"gating": True}, "gating must be 'per-head' or 'per-element'"),
        ("mistral4", {"n_shared_experts": 1}, "n_shared_experts must be 0, got 1"),
        ("mistral4", {"routed_scaling_factor": 2.5}, "routed_scaling_factor must be 1, got 2.5"),
        ("mellum", {"sliding_window": None}, "sliding_window must be a number where layer_types has sliding_attention"),
        ("mellum", {"layer_types": ["full_attention"]}, "layer_types must have 5 entries, got 1"),
        ("qwen3_next", {"mlp_only_layers": [0], "num_experts_per_tok": 2}, "moe_intermediate_size is missing"),
        ("qwen3_5_text", {"rope_parameters": {"rope_theta": 1e4}}, "partial_rotary_factor must be 1"),
        ("qwen3_5_text", {"layer_types": ["linear_attention"] * 5}, "layer_types.0 must be 'full_attention'"),
    ],
)
def test_folders_of_these_classes_that_are_no_plain_decoders(
    tmp_path: Path, format: str, change: dict[str, Any], message: str
) -> None:
    folder = ae.export(student(format), tmp_path / "out", format)
    raw = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError) as refused:
        ae.load(folder)
    assert message in str(refused.value)


def test_formats_are_named_after_model_types() -> None:
    assert known_formats() == sorted(LAYERS)
    with pytest.raises(ValueError, match=r"format must be one of attnedit, .*, got 'gguf'"):
        ae.export(student("llama"), "unused", "gguf")
    with pytest.raises(ValueError, match="verify must be transformers or nothing, got 'vllm'"):
        ae.export(student("llama"), "unused", "llama", verify="vllm")  # type: ignore[arg-type]


def test_verify_names_an_interpreter_that_cannot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="python must be an interpreter, /nowhere/python is not"):
        ae.export(student("llama"), tmp_path / "out", "llama", verify="transformers", python="/nowhere/python")
    assert list(tmp_path.iterdir()) == []
