"""Tiny models and folders that tests make for themselves."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

import attnedit as ae
from attnedit.checkpoint import save_checkpoint
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import GQAConfig, MoEConfig, RopeParameters


def tiny_config(**changes: object) -> DecoderConfig:
    """2 layers, 4 heads over 2 key-value heads, QK-norm."""
    layer = GQAConfig(4, 2, 8, qk_norm=True)
    values: dict[str, object] = {
        "model_type": "qwen3", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "rope": RopeParameters(max_position_embeddings=64), "attention": (layer, layer),
    }  # fmt: skip
    return DecoderConfig(**(values | changes))  # type: ignore[arg-type]


# Five experts, two a token, in both layers.
EXPERTS = MoEConfig(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True)


def random_decoder(config: DecoderConfig, seed: int = 0) -> Decoder:
    """Weights large enough for attention to look somewhere."""
    rng = np.random.default_rng(seed)
    model = Decoder(config)
    for path, parameter in list(model.named_parameters()):
        if len(parameter.shape) == 1 and path.endswith("weight"):
            values = rng.uniform(0.5, 1.5, parameter.shape)
        else:
            values = rng.normal(0, 0.3, parameter.shape)
        model.set_parameter(path, ae.tensor(values))
    return model


END = "<|endoftext|>"


def write_teacher(folder: Path, text: str, seed: int = 0, moe: MoEConfig | None = None) -> Path:
    """A Qwen3 folder, or one of Qwen3-MoE, with random weights and a byte-level BPE tokenizer of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    files = folder.with_name(folder.name + "-tokenizer")
    files.mkdir(parents=True)
    tokenizer.save(str(files / "tokenizer.json"))
    config = tiny_config(vocab_size=300, moe=moe)
    raw = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 300, "hidden_size": 24,
        "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "attention_bias": False,
        "max_position_embeddings": 64, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    if moe is not None:
        raw |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **asdict(moe)}
    tensors = {f"model.{path}": p.numpy() for path, p in random_decoder(config, seed).named_parameters()}
    save_checkpoint(folder, raw, tensors, [files / "tokenizer.json"])
    return folder


def words(count: int, seed: int) -> str:
    """Documents of a small language, separated by blank lines."""
    rng = np.random.default_rng(seed)
    vocabulary = ["tree", "river", "stone", "cloud", "the", "a", "runs", "falls", "under", "over", "and", "slowly"]
    return "\n\n".join(" ".join(rng.choice(vocabulary, 40)) for _ in range(count))


def write_recipe(folder: Path, moe: MoEConfig | None = None, **changes: object) -> Path:
    """teacher/, corpus.txt and recipe.yaml in folder; changes replace top-level keys."""
    import yaml

    if not (folder / "teacher").exists():
        write_teacher(folder / "teacher", words(20, 0), moe=moe)
        (folder / "corpus.txt").write_text(words(200, 1))
    recipe = {
        "teacher": "teacher",
        "target": {"attention": "mla", "kv_lora_rank": 12, "qk_rope_head_dim": 8},
        "data": {"train": ["corpus.txt"], "separator": "\n\n", "sequence_length": 32, "heldout_share": 0.1},
        "layerwise": {"tokens": 50_000},
        "modelwise": {"tokens": 50_000},
        "run": "run",
    } | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
