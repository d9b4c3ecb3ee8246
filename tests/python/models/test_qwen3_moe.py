"""A mixture of experts as a source: its keys, its tensors under both names, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import EXPERTS, words, write_teacher

import attnedit as ae
from attnedit.models.load import family_of
from attnedit.nn import MLP, MoE, MoEConfig

RAW = {
    "model_type": "qwen3_moe", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher", words(20, 0), moe=EXPERTS)


def fuse(folder: Path) -> dict[str, np.ndarray]:
    """The same weights as transformers' classes hold them."""
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts"
        each = [
            [tensors.pop(f"{at}.{e}.{part}_proj.weight") for part in ("gate", "up", "down")]
            for e in range(EXPERTS.num_experts)
        ]
        tensors[f"{at}.gate_up_proj"] = np.stack([np.concatenate([gate, up]) for gate, up, _ in each])
        tensors[f"{at}.down_proj"] = np.stack([down for *_, down in each])
    return tensors


def test_which_layers_have_experts() -> None:
    def kinds(**changes: Any) -> list[bool]:
        config = family_of(RAW).decoder_config(RAW | changes)
        model = ae.Decoder(config)
        assert all(isinstance(block.mlp, MoE | MLP) for block in model.layers)
        return [isinstance(block.mlp, MoE) for block in model.layers]

    assert kinds() == [True] * 4
    assert kinds(decoder_sparse_step=2) == [False, True, False, True]
    assert kinds(mlp_only_layers=[1, 2]) == [True, False, False, True]
    assert kinds(mlp_only_layers=None, decoder_sparse_step=5) == [False] * 4


def test_both_spellings_and_the_classes_own_defaults() -> None:
    spelled = {k: v for k, v in RAW.items() if k != "num_experts"} | {"num_local_experts": 8}
    for raw in (RAW, spelled):
        config = family_of(raw).decoder_config(raw)
        assert config.moe == MoEConfig(8, 2, 12) and config.attention[0].head_dim == 24 // 4
    slides = RAW | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3}
    assert [layer.sliding_window for layer in family_of(slides).decoder_config(slides).attention] == [5] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": None}, "num_experts is missing"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is missing"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok must be at most num_experts 8, got 9"),
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"moe_intermediate_size": "12"}, "moe_intermediate_size must be a whole number, got '12'"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false, got 1"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step must be at least 1, got 0"),
        ({"mlp_only_layers": 3}, "mlp_only_layers must be a list, got 3"),
    ],
)
def test_odd_keys_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    raw = RAW | changes
    with pytest.raises(ValueError) as caught:
        family_of(raw).decoder_config(raw)
    assert str(caught.value).startswith("[config.json] ") and message in str(caught.value)


def test_fused_tensors_are_the_same_model_and_nothing_is_copied(folder: Path, rows: np.ndarray) -> None:
    want = ae.load(folder).logits(rows).numpy()
    save_file(fuse(folder), folder / "model.safetensors")
    before = ae.runtime.memory_allocated()
    fused = ae.load(folder)
    assert ae.runtime.memory_allocated() - before < sum(p.nbytes for p in fused.parameters()) / 4
    assert np.array_equal(fused.logits(rows).numpy(), want)


def broken(folder: Path, change: Any) -> str:
    tensors = fuse(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        ae.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    first = "model.layers.0.mlp.experts"
    whole = load_file(folder / "model.safetensors")

    def said(change: Any) -> str:
        save_file(whole, folder / "model.safetensors")
        return broken(folder, change)

    def cut(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"{first}.gate_up_proj"] = tensors[f"{first}.gate_up_proj"][:4].copy()

    assert said(cut) == f"[load] tensor {first}.gate_up_proj must have shape (5, 24, 24), got (4, 24, 24)"
    assert said(lambda t: t.pop(f"{first}.down_proj")) == (
        f"[load] tensor {first}.0.down_proj.weight of shape (24, 12) is missing from the checkpoint"
    )
    assert said(lambda t: t.update({f"{first}.3.up_proj.weight": np.zeros((12, 24), np.float32)})) == (
        f"[load] tensor {first}.3.up_proj.weight is stored twice, {first}.gate_up_proj holds it too"
    )


def test_more_experts_than_the_config_says_are_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_experts": 4}))
    with pytest.raises(
        ValueError, match=r"tensor model.layers.0.mlp.experts.4.down_proj.weight and 5 more has none; .* num_experts 4"
    ):
        ae.load(folder)


def test_our_own_folder_holds_experts(folder: Path, tmp_path: Path, rows: np.ndarray) -> None:
    model = ae.load(folder)
    out = ae.export(model, tmp_path / "own", source=folder)
    again = ae.load(out)
    assert again.config.moe == EXPERTS and np.array_equal(again.logits(rows).numpy(), model.logits(rows).numpy())
    with pytest.raises(ValueError, match=r"deepseek_v3 cannot hold this model: .*; attnedit, mistral4 can"):
        ae.export(ae.edit(model, ae.MLA(8, init="svd")), tmp_path / "stock", format="deepseek_v3")
