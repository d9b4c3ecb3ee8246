"""Live against transformers, where it is installed: the folders it writes, and the folders that we write for it."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[parity]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

import attnedit as ae  # noqa: E402
from attnedit.data import ChatTemplate  # noqa: E402
from attnedit.models import Decoder  # noqa: E402

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
}  # fmt: skip
LATENT = {"kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "init": "random"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def random_settings(seed: int) -> dict[str, Any]:
    """What people vary within the three families."""
    rng = np.random.default_rng(seed)
    kv_heads, group = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 4]))
    family = ("llama", "qwen2", "qwen3")[seed % 3]
    rope_type = str(rng.choice(list(ROPES)))
    settings: dict[str, Any] = {
        "model_type": family, "vocab_size": int(rng.integers(30, 90)),
        "hidden_size": kv_heads * group * int(rng.integers(3, 9)),
        "intermediate_size": int(rng.integers(10, 60)), "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": kv_heads * group, "num_key_value_heads": kv_heads,
        "head_dim": int(rng.choice([4, 6, 8, 16])), "rms_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-3])),
        "max_position_embeddings": 64, "tie_word_embeddings": bool(rng.integers(2)),
        "rope_parameters": {**ROPES[rope_type], "rope_theta": float(rng.choice([1e3, 1e4, 1e6]))},
    }  # fmt: skip
    if family != "qwen2":
        settings["attention_bias"] = bool(rng.integers(2))
    if family == "llama":
        settings["mlp_bias"] = bool(rng.integers(2))
    elif rng.integers(2):
        settings |= {"use_sliding_window": True, "sliding_window": int(rng.integers(1, 9)), "max_window_layers": 1}
    return settings


def write_folder(folder: Path, settings: dict[str, Any], seed: int, dtype: Any = torch.float32) -> Any:
    """A random model, saved by the library itself and read again in float32."""
    values = {key: value for key, value in settings.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(settings["model_type"], **values)
    model = transformers.AutoModelForCausalLM.from_config(config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 1 and path.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=random)
            else:
                parameter.normal_(0, 0.3, generator=random)
    model.to(dtype).save_pretrained(folder)
    return read_folder(folder)[0]


def read_folder(folder: Path, dtype: Any = torch.float32) -> tuple[Any, dict[str, Any]]:
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), loading


def random_tokens(vocabulary: int, seed: int = 0) -> np.ndarray:
    """Two rows, longer than the original length of the ropes."""
    return np.random.default_rng(seed).integers(0, vocabulary, (2, 23)).astype(np.int32)


def logits_of(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(tokens).long(), use_cache=False).logits.float().numpy()
    return logits


def assert_same_logits(ours: Decoder, theirs: Any, tokens: np.ndarray, tolerance: float = 1e-4) -> None:
    a, b = ours.logits(tokens).numpy(), logits_of(theirs, tokens)
    assert np.abs(b).max() > 0.5
    assert np.abs(a - b).max() < tolerance * max(1.0, float(np.abs(b).max()))


@pytest.mark.parametrize("seed", range(15))
def test_a_folder_gives_their_logits(tmp_path: Path, seed: int) -> None:
    settings = random_settings(seed)
    theirs = write_folder(tmp_path / "model", settings, seed)
    assert_same_logits(ae.load(tmp_path / "model"), theirs, random_tokens(settings["vocab_size"]))


def random_mixture(seed: int) -> dict[str, Any]:
    """What people vary in a Qwen3-MoE."""
    rng = np.random.default_rng(seed)
    experts, layers = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    settings = random_settings(3 * seed + 2) | {
        "model_type": "qwen3_moe", "num_hidden_layers": layers, "num_experts": experts,
        "num_experts_per_tok": int(rng.integers(1, experts + 1)), "moe_intermediate_size": int(rng.integers(3, 40)),
        "norm_topk_prob": bool(rng.integers(2)), "decoder_sparse_step": int(rng.choice([1, 1, 2])),
        "mlp_only_layers": [0] if rng.integers(4) == 0 else [],
    }  # fmt: skip
    return {key: value for key, value in settings.items() if key != "max_window_layers"}


@pytest.mark.parametrize("seed", range(12))
def test_a_mixture_of_experts_gives_their_logits(tmp_path: Path, seed: int) -> None:
    """From their folder, a tensor per expert, and from one with the fused tensors that their classes hold."""
    settings = random_mixture(seed)
    theirs = write_folder(tmp_path / "model", settings, seed)
    theirs.set_experts_implementation("eager")  # the default wants widths that are multiples of 16 bytes
    tokens = random_tokens(settings["vocab_size"])
    model = ae.load(tmp_path / "model")
    assert_same_logits(model, theirs, tokens)
    theirs.save_pretrained(tmp_path / "fused", save_original_format=False)
    fused = ae.load(tmp_path / "fused")
    assert np.array_equal(fused.logits(tokens).numpy(), model.logits(tokens).numpy())


def test_a_bfloat16_mixture_is_widened_exactly(tmp_path: Path) -> None:
    settings = random_mixture(0) | {"num_experts": 6, "num_experts_per_tok": 2, "mlp_only_layers": []}
    theirs = write_folder(tmp_path / "model", settings | {"decoder_sparse_step": 1}, 1, torch.bfloat16)
    theirs.set_experts_implementation("eager")
    model = ae.load(tmp_path / "model")
    stored = dict(model.named_parameters())["layers.0.mlp.experts.5.down_proj.weight"].dtype
    assert stored == np.dtype(ml_dtypes.bfloat16)
    assert_same_logits(model, theirs, random_tokens(settings["vocab_size"]))


@pytest.mark.parametrize("rope_type", ROPES)
def test_every_rope_type_of_llama(tmp_path: Path, rope_type: str) -> None:
    settings = random_settings(0) | {"rope_parameters": {**ROPES[rope_type], "rope_theta": 1e4}}
    theirs = write_folder(tmp_path / "model", settings, 0)
    assert_same_logits(ae.load(tmp_path / "model"), theirs, random_tokens(settings["vocab_size"]))


def test_a_bfloat16_folder_is_widened_exactly(tmp_path: Path) -> None:
    settings = random_settings(2)
    theirs = write_folder(tmp_path / "model", settings, 2, torch.bfloat16)
    model = ae.load(tmp_path / "model")
    assert model.embed_tokens.weight.dtype == np.dtype(ml_dtypes.bfloat16)
    assert_same_logits(model, theirs, random_tokens(settings["vocab_size"]))


def student_of(folder: Path, rope_type: str, tied: bool) -> Decoder:
    """A Llama without biases and end, its attention edited to MLA at random."""
    changes = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied, "num_hidden_layers": 2,
               "eos_token_id": None}  # fmt: skip
    rope = {"rope_parameters": {**ROPES[rope_type], "rope_theta": 1e4}}
    write_folder(folder, random_settings(3) | changes | rope, 7)
    teacher = ae.load(folder)
    student = ae.edit(teacher, ae.MLA(**LATENT))  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    for path, parameter in list(student.named_parameters()):
        if "self_attn" in path:  # a random start is small: weights at which attention and the latent norm matter
            values = rng.normal(0, 0.3, parameter.shape) + (path.endswith("layernorm.weight"))
            student.set_parameter(path, ae.tensor(values))
    return student


def assert_loads_clean(loading: dict[str, Any]) -> None:
    found = {key: value for key, value in loading.items() if value}
    assert not found, f"transformers reports {found}"


@pytest.mark.parametrize("rope_type", ROPES)
@pytest.mark.parametrize("tied", [True, False])
def test_an_mla_student_is_a_stock_deepseek_v3(tmp_path: Path, rope_type: str, tied: bool) -> None:
    student = student_of(tmp_path / "teacher", rope_type, tied)
    theirs, loading = read_folder(ae.export(student, tmp_path / "out", format="deepseek_v3"))
    assert type(theirs).__name__ == "DeepseekV3ForCausalLM"
    assert_loads_clean(loading)
    tokens = random_tokens(student.config.vocab_size)
    assert_same_logits(student, theirs, tokens)
    prompt = torch.from_numpy(tokens[:1, :9]).long()
    greedy = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    (made,) = ae.generate(student, [tokens[0, :9]], max_new_tokens=12)
    assert [*tokens[0, :9], *made.tokens] == greedy[0].tolist()


def test_a_bfloat16_export(tmp_path: Path) -> None:
    """Exact where transformers widens the weights; near where it computes in bfloat16."""
    student = student_of(tmp_path / "teacher", "default", True)
    out = ae.export(student, tmp_path / "out", format="deepseek_v3", dtype="bfloat16")
    tokens = random_tokens(student.config.vocab_size)
    theirs, loading = read_folder(out, torch.bfloat16)
    assert_loads_clean(loading)
    scale = float(np.abs(student.logits(tokens).numpy()).max())
    assert np.abs(student.logits(tokens).numpy() - logits_of(theirs, tokens)).max() < 0.1 * scale
    for path, parameter in list(student.named_parameters()):
        rounded = np.asarray(parameter.numpy(), np.float32).astype(ml_dtypes.bfloat16)
        student.set_parameter(path, ae.tensor(rounded.astype(np.float32)))
    assert_same_logits(student, read_folder(out)[0], tokens)


@pytest.mark.parametrize("thinking", [True, False])
def test_chat_templates_render_alike(tmp_path: Path, thinking: bool) -> None:
    """transformers' own function on the same template: whitespace, tojson, special tokens, loop controls."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{{ bos_token }}\n{%- for m in messages %}\n  {%- if m.role == 'end' %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m.content | tojson(indent=1) }}{% endgeneration %}\n{% endfor %}\n"
        "{%- if add_generation_prompt %}{{ '>' if thinking else '' }}{% endif %}"
    )
    messages = [{"role": "user", "content": ["<ä&\n>", {"b": 1, "a": None}]}, {"role": "end", "content": ""}]
    (theirs,), _ = render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=True, bos_token="<s>", thinking=thinking
    )
    ours = ChatTemplate(tmp_path, {"chat_template": source, "bos_token": "<s>"})
    assert ours.render(messages, thinking=thinking) == theirs
