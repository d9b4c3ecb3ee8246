"""config.json is checked before anything is built from it."""

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from students import student
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit.checkpoint import Checkpoint
from attnedit.models.load import family_of, known_model_types, read_config
from attnedit.nn import Rope

GOOD = {
    "model_type": "qwen3", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
EDITED = {
    "model_type": "attnedit", "source_model_type": "qwen3", "vocab_size": 37, "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4,
    "attention": [{"type": "gqa", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}],
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0,
          "original_max_position_embeddings": 16}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (GOOD | {"hidden_size": -1}, "hidden_size must be at least 1, got -1"),
        (GOOD | {"hidden_size": 10**12}, "hidden_size must be at most 1048576, got 1000000000000"),
        (GOOD | {"hidden_size": "24"}, "hidden_size must be a whole number, got '24'"),
        (GOOD | {"vocab_size": True}, "vocab_size must be a whole number, got True"),
        (GOOD | {"num_hidden_layers": 2.5}, "num_hidden_layers must be a whole number, got 2.5"),
        (GOOD | {"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        (GOOD | {"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads 4, got 3"),
        (GOOD | {"head_dim": 7}, "head_dim must be a multiple of 2, got 7"),
        (GOOD | {"rms_norm_eps": -1e-6}, "rms_norm_eps must be at least 0, got -1e-06"),
        (GOOD | {"rope_theta": "x"}, "rope_theta must be a number, got 'x'"),
        (GOOD | {"rope_theta": -1e4}, "rope_theta must be greater than 1, got -10000.0"),
        (GOOD | {"rope_theta": float("nan")}, "rope_theta must be a finite number, got nan"),
        (GOOD | {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        (GOOD | {"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        (GOOD | {"rope_scaling": 3}, "rope_scaling must be a mapping of keys, got 3"),
        (GOOD | {"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        (GOOD | {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor must be at least 1e-06, got 0"),
        (GOOD | {"rope_scaling": {"rope_type": ["x"]}}, "rope_type must be one of default, linear, llama3, yarn"),
        (GOOD | {"rope_scaling": LLAMA3}, "high_freq_factor must be greater than low_freq_factor 4.0, got 1.0"),
        ({k: v for k, v in GOOD.items() if k != "vocab_size"}, "vocab_size is missing"),
        (GOOD | {"model_type": {}}, "youtu, got {}"),
        ({k: v for k, v in EDITED.items() if k != "attention"}, "attention is missing"),
        (EDITED | {"num_hidden_layers": 2}, "attention must have num_hidden_layers 2 entries, got 1"),
        (EDITED | {"attention": [{"type": "mla"}]}, r"attention[0]: num_attention_heads is missing"),
        (
            EDITED | {"attention": [EDITED["attention"][0] | {"gate": "x"}]},  # type: ignore[index]
            r"attention[0]: unknown key 'gate'; the known ones are num_attention_heads",
        ),
    ],
)
def test_a_bad_config_is_refused_by_its_key(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        family_of(raw).decoder_config(raw)
    assert str(caught.value).startswith("[config.json] ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_family_is_none_of_the_model_types() -> None:
    beside = {path.stem for path in Path(ae.models.__path__[0]).glob("*.py")}
    known = set(known_model_types())
    assert {"qwen3", "attnedit", "youtu"} <= known and not known & {"pages", "cache", "keys", "load", "__init__"}
    for name in sorted(beside - known):
        with pytest.raises(ValueError, match=rf"model_type must be one of .*, got '{name}'"):
            family_of({"model_type": name})
    for name in known:
        assert callable(family_of({"model_type": name}).decoder_config), name


def deep(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
FULL = {"rope_parameters": {"partial_rotary_factor": 1.0}, "layer_types": ["full_attention"] * 2}
MISTRAL4 = {
    "model_type": "mistral4", "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "first_k_dense_replace": 0, "norm_topk_prob": True, "n_shared_experts": 0, "n_group": 1, "topk_group": 1,
    "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "rope_parameters": {"partial_rotary_factor": 0.5, "llama_4_scaling_beta": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (GOOD | {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000, got 1000000000"),
        (GOOD | {"hidden_size": 10**4000}, "hidden_size must be at most 1048576, got 1000"),
        (GOOD | {"rope_theta": 10**400}, "rope_theta must be"),
        (GOOD | {"rope_theta": 1e300}, "rope_theta must be at most 1e+30"),
        (GOOD | {"rms_norm_eps": 1e300}, "rms_norm_eps must be at most 1"),
        (GOOD | {"rope_scaling": {"type": "linear", "factor": 1e-320}}, "factor must be at least 1e-06"),
        (GOOD | {"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1e308}}, "beta_fast must be at most"),
        (GOOD | {"rope_scaling": {"type": "yarn", "factor": 2, "mscale": 1e308}}, "mscale must be"),
        (GOOD | {"rope_scaling": {"type": "yarn", "factor": float("inf")}}, "factor must be a finite number, got inf"),
        (GOOD | {"rope_scaling": {"type": "x\n" * 1000}}, "rope_type must be one of default, linear"),
        (GOOD | {"whatever": deep(960)}, "the keys must be"),
        (GOOD | {"whatever": "\ud800"}, "the keys must be JSON"),
        (GOOD | EXPERTS | {"mlp_only_layers": [10**9]}, "mlp_only_layers.0 must be at most 10000, got 1000000000"),
        (GOOD | FULL | {"model_type": "qwen3_5_text", "rope_parameters": 3}, "rope_parameters must be a mapping"),
        (GOOD | FULL | {"model_type": "qwen3_next", "num_hidden_layers": 10**12, "mlp_only_layers": [],
                        "decoder_sparse_step": 1}, "num_hidden_layers must be at most 10000"),
        (GOOD | MISTRAL4 | {"first_k_dense_replace": 10**12}, "first_k_dense_replace must be at most 10000"),
        (GOOD | MISTRAL4 | {"n_routed_experts": -1}, "n_routed_experts must be at least 1, got -1"),
        (GOOD | MISTRAL4 | {"num_experts_per_tok": 5}, "num_experts_per_tok must be at most num_experts 4, got 5"),
        (GOOD | MISTRAL4 | {"rope_parameters": {"partial_rotary_factor": float("inf"), "llama_4_scaling_beta": 0}},
         "partial_rotary_factor must be qk_rope_head_dim 8 of 16, got inf"),
    ],
)  # fmt: skip
def test_numbers_beyond_all_models_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        family_of(raw).decoder_config(raw)
    assert str(caught.value).startswith("[config.json] ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


ODD = [None, True, -1, 0, 3, 0.5, "x", [], {}, [None], [3], {"x": {}}, {"x": 1}]


@pytest.mark.parametrize("name", known_model_types())
def test_no_key_is_taken_on_trust(name: str) -> None:
    """Each key of each family's config.json, and of the objects in it, left out or of another kind."""
    writer = importlib.import_module(f"attnedit.export.{name}")
    whole = writer.raw_config(student(name, 2).config)
    for path in [(key,) for key in whole] + [
        (k, inner) for k, v in whole.items() if isinstance(v, dict) for inner in v
    ]:
        for value in ["left out", *ODD]:
            raw = deepcopy(whole)
            holder = raw[path[0]] if len(path) == 2 else raw
            holder.pop(path[-1])
            if value != "left out":
                holder[path[-1]] = value
            try:
                family_of(raw).decoder_config(raw)
            except ValueError as error:
                assert str(error).startswith("[config.json] ") and "\n" not in str(error), (path, value, error)
    for required in ("rope_parameters", "vocab_size") if name == "mistral4" else ("vocab_size",):
        with pytest.raises(ValueError, match=f"{required} is missing"):
            family_of(whole).decoder_config({k: v for k, v in whole.items() if k != required})


def test_the_largest_scaling_that_is_read_gives_numbers() -> None:
    raw = GOOD | {"max_position_embeddings": 1, "rope_theta": 1.0000000000000002}
    for theta in (1.0000000000000002, 1e30):
        for factor, beta in ((1e-6, 1e6), (1e6, 1e-6)):
            block = {"type": "yarn", "factor": factor, "beta_fast": beta, "beta_slow": beta, "mscale": 1e6,
                     "mscale_all_dim": 1e-6, "rope_theta": theta}  # fmt: skip
            config = family_of(raw).decoder_config(raw | {"rope_scaling": block})
            cos, sin = Rope(config.rope, 8).tables(64)
            assert np.isfinite(cos.numpy()).all() and np.isfinite(sin.numpy()).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10_000}, "num_hidden_layers 10000 and 0 experts need more than"),
        ({"hidden_size": 2**20, "vocab_size": 2**20}, "hidden_size 1048576, num_hidden_layers 2"),
        (EXPERTS | {"num_experts": 2**20}, "num_experts must be at most 100000 in all layers, got 2097152"),
        (EXPERTS | {"num_experts": 50_000}, "100000 experts need more than"),
    ],
)
def test_a_config_far_larger_than_the_weights_is_refused_at_once(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    for read in (ae.load, lambda path: read_config(Checkpoint.open(path))):
        with pytest.raises(ValueError, match=message):
            read(folder)


def test_generation_settings_from_outside_are_not_read(folder: Path) -> None:
    (folder.parent / "mine.json").write_text('{"secret": 1}')
    (folder / "generation_config.json").symlink_to(folder.parent / "mine.json")
    with pytest.raises(
        ValueError, match=r"generation_config\.json must lie in its folder, it is a link to .*mine\.json"
    ):
        ae.load(folder)


def test_a_tensor_with_lines_in_its_name_is_told_in_one(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors") | {"\nx": np.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"tensor '\\nx' has none"):
        ae.load(folder)


def test_null_is_absent_and_other_keys_are_none_of_ours() -> None:
    raw = GOOD | {"rope_scaling": None, "sliding_window": None, "head_dim": None, "_name_or_path": 3}
    config = family_of(raw).decoder_config(raw)
    assert config.rope.rope_theta == 10_000 and config.attention[0].head_dim == 128


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher", words(20, 0))


def test_tensors_that_nothing_reads_are_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    message = r"tensor model.layers.1.input_layernorm.weight and 10 more has none; .* num_hidden_layers 1"
    with pytest.raises(ValueError, match=message):
        ae.load(folder)


def test_buffers_and_a_tied_head_are_not_surplus(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert ae.load(folder).config.num_hidden_layers == 2


def test_a_shard_holds_nothing_that_the_index_leaves_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    names = set(load_file(folder / "shard.safetensors"))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names - {"model.norm.weight"}, "shard.safetensors")}))
    assert ae.load(folder).config.num_hidden_layers == 2  # found where it is
    save_file(load_file(folder / "shard.safetensors") | {"extra": np.ones(1)}, folder / "shard.safetensors")
    with pytest.raises(ValueError, match="tensor extra has none"):
        ae.load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_export_has_the_teachers_dtype(tmp_path: Path, dtype: Any) -> None:
    first = ae.export(random_decoder(tiny_config()), tmp_path / "first", dtype=dtype)
    rows = np.random.default_rng(0).integers(0, 37, (4, 16)).astype(np.int32)
    student = ae.edit(ae.load(first), ae.MLA(kv_lora_rank=12), rows)
    stored = load_file(ae.export(student, tmp_path / "second") / "model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(getattr(ml_dtypes, dtype, dtype))}
    assert json.loads((tmp_path / "second/config.json").read_text())["dtype"] == dtype
