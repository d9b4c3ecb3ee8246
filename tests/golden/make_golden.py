"""Makes the golden files beside this script: tiny random models of Hugging Face, what they compute, and gradients.

    python tests/golden/make_golden.py     (needs torch and transformers; the tests only read the files)

One safetensors file per model. The metadata holds config.json; "weight/..." the checkpoint's tensors, drawn in bfloat16
so that they can be stored in both types without rounding; "tokens" int32 [1, T], "block" the first block's output
[1, T, D], "logits" [1, T, V], "cotangent" [1, T, V] and "grad/..." the gradients of sum(logits * cotangent), float32.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

TIME = 12
SIZES = {
    "vocab_size": 37, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 6, "rope_interleave": True, "first_k_dense_replace": 2, "n_routed_experts": 2,
}  # fmt: skip
# The original length is shorter than the text, so that every branch of the scalings is taken.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 1.0}

MODELS = {
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True, "rope_theta": 1e4, **GROUPED},
    "qwen3_moe": {
        "model_type": "qwen3_moe", "tie_word_embeddings": False, "rope_theta": 1e4, **GROUPED, "num_experts": 5,
        "num_experts_per_tok": 2, "moe_intermediate_size": 10, "norm_topk_prob": True,
    },
    "qwen2_window": {
        "model_type": "qwen2", "tie_word_embeddings": False, "rope_theta": 1e4, **GROUPED,
        "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1,
    },
    "llama_llama3": {
        "model_type": "llama", "tie_word_embeddings": False, **GROUPED,
        "rope_parameters": {**LLAMA3, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    },
    "llama_yarn": {
        "model_type": "llama", "tie_word_embeddings": True, **GROUPED,
        "rope_parameters": {**YARN, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    },
    "deepseek_v3": {"model_type": "deepseek_v3", "tie_word_embeddings": True, "rope_theta": 1e4, **LATENT},
    "deepseek_v3_yarn": {
        "model_type": "deepseek_v3", "tie_word_embeddings": False, **LATENT,
        "rope_parameters": {
            **YARN, "rope_theta": 1e4, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.7,
        },
    },
}  # fmt: skip


def draw(name: str, shape: torch.Size, seed: torch.Generator) -> torch.Tensor:
    """Weights large enough for attention to look somewhere, biases included; norms around 1."""
    if len(shape) == 1 and name.endswith("weight"):
        values = torch.empty(shape).uniform_(0.5, 1.5, generator=seed)
    else:
        values = torch.empty(shape).normal_(0, 0.3, generator=seed)
    return values.bfloat16()


def golden(name: str, raw: dict) -> tuple[dict[str, torch.Tensor], dict]:
    torch.manual_seed(0)
    seed = torch.Generator().manual_seed(sum(name.encode()))
    settings = {key: value for key, value in raw.items() if key != "model_type"}
    config = AutoConfig.for_model(raw["model_type"], **SIZES, **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")  # its default wants widths that are multiples of 16 bytes
    arrays = {}
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            arrays[f"weight/{path}"] = draw(path, parameter.shape, seed)
            parameter.copy_(arrays[f"weight/{path}"])
    tokens = torch.randint(0, config.vocab_size, (1, TIME), generator=seed)
    cotangent = torch.empty(1, TIME, config.vocab_size).normal_(0, 1, generator=seed)
    out = model(tokens, output_hidden_states=True, use_cache=False)
    (out.logits * cotangent).sum().backward()
    arrays |= {"tokens": tokens.int(), "block": out.hidden_states[1], "logits": out.logits, "cotangent": cotangent}
    for path, parameter in model.named_parameters():
        # The norm in front feels every path through attention; of the matrices, those of keys and values are enough,
        # and the router's of a mixture of experts.
        kept = ("attn.k", "attn.v", "bias", "_norm.", "input_layernorm", "mlp.gate.")
        if ".layers.0." in path and any(part in path for part in kept):
            arrays[f"grad/{path}"] = parameter.grad
    return {key: value.detach().contiguous() for key, value in arrays.items()}, {**raw, **SIZES}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for model_name, settings in MODELS.items():
        tensors, raw_config = golden(model_name, settings)
        path = Path(__file__).parent / f"{model_name}.safetensors"
        save_file(tensors, path, metadata={"config": json.dumps(raw_config)})
        print(f"{path.name}: {path.stat().st_size:,} bytes, largest logit {tensors['logits'].abs().max():.2f}")
