"""What the whole steps share: Qwen3-0.6B's width, its latent form, and weights that every side draws alike."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, normal

QWEN, M = SHAPES["Qwen3-0.6B"], SHAPES["Qwen3-0.6B as MLA"]
LAYERS, SMALL_VOCABULARY = 8, 2048  # of the step that is measured, of the one that only checks answers
CONFIG: dict[str, Any] = QWEN | {
    "model_type": "qwen3", "num_hidden_layers": LAYERS, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "max_position_embeddings": 40_960, "attention_bias": False, "tie_word_embeddings": True,
}  # fmt: skip
LATENT = {key: M[key] for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
HEADS, KEY = QWEN["num_attention_heads"], M["qk_nope_head_dim"] + M["qk_rope_head_dim"]
RATE = 1e-4


def drawn(name: str, shape: tuple[int, ...]) -> Array:
    """The parameter called name: normal numbers of 0.02; a norm is ones."""
    if len(shape) == 1:
        return normal(shape, 0, 0) + 1
    return normal(shape, zlib.crc32(name.encode()), 0.02)


def matrix_sizes() -> tuple[int, int, int, int]:
    """Numbers of a layer's matrices: grouped attention, latent attention, the part of it behind its first products
    (which alone gives a gradient to another activation), the MLP."""
    hidden, width = QWEN["hidden_size"], HEADS * QWEN["head_dim"]
    grouped = hidden * (2 * width + 2 * QWEN["num_key_value_heads"] * QWEN["head_dim"])
    behind = HEADS * (LATENT["kv_lora_rank"] * (M["qk_nope_head_dim"] + M["v_head_dim"]) + M["v_head_dim"] * hidden)
    latent = behind + hidden * (HEADS * KEY + LATENT["kv_lora_rank"] + LATENT["qk_rope_head_dim"])
    return grouped, latent, behind, 3 * hidden * QWEN["intermediate_size"]


def attention_work(time: int, key: int, value: int, backward: bool) -> float:
    """Operations between the pairs of query and key, as kernels/attention.py counts them."""
    pairs = HEADS * time * (time + 1) / 2
    return 2 * pairs * (4 * key + 3 * value if backward else key + value)


def config_of(layers: int) -> dict[str, Any]:
    """The teacher's; one of fewer layers than the measured one has fewer tokens too."""
    return CONFIG | {"num_hidden_layers": layers} | ({"vocab_size": SMALL_VOCABULARY} if layers < LAYERS else {})


def deepseek_config(attention: str, layers: int = LAYERS) -> Any:
    """The stock class of transformers for the student, its kind of attention eager or sdpa."""
    import transformers

    shared = {key: value for key, value in config_of(layers).items() if key not in ("model_type", "head_dim")}
    config = transformers.DeepseekV3Config(
        **shared | LATENT | {"num_key_value_heads": HEADS, "q_lora_rank": None, "first_k_dense_replace": layers}
    )
    config._attn_implementation = attention
    return config


def filled(kind: Callable[[Any], Any], config: Any, shared: dict[str, Any]) -> Any:
    """A model of transformers with the weights that ours draws: frozen ones, which `shared` keeps for the next model,
    and the latent attention's own, which train. Built without numbers: its own drawing would take longer than a step.
    """
    import torch

    with torch.device("meta"):
        model = kind(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its tables are no parameters
    latent = hasattr(config, "kv_lora_rank")
    for prefix, module in model.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            name = f"{prefix}.{leaf}".removeprefix("model.").replace("lm_head", "embed_tokens")
            own = latent and ".self_attn." in name
            value = None if own else shared.get(name)
            if value is None:
                values = torch.from_numpy(drawn(f"student.{name}" if own else name, tuple(parameter.shape)))
                value = torch.nn.Parameter(values, requires_grad=own)
            if not own:
                shared[name] = value
            setattr(module, leaf, value)
    return model


def torch_adamw(parameters: list[Any], fused: bool) -> Any:
    import torch

    return torch.optim.AdamW(
        parameters, RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True if fused else None
    )


def torch_step(case: Case, loss_of: Callable[[], Any], optimizer: Any) -> Callable[[], float]:
    """One step of training by a loss, as most people write it; for a case in bfloat16 under autocast."""
    import torch

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bfloat16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def each(name: str, step: Callable[[], float]) -> Run:
    """The run whose answer is what every step so far has said: behind the second, from before and after an update."""
    said: list[float] = []

    def run() -> Mapping[str, Any]:
        said.append(step())
        return {name: np.array(said)}

    return run


def torch_peers(build: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """build(case, x, attention, fused) as most people run it, and as well as torch can."""
    return {
        "torch eager": lambda case, x: build(case, x, "eager", fused=False),
        "torch autocast": lambda case, x: build(case, x, "sdpa", fused=False),
        "torch sdpa, fused AdamW": lambda case, x: build(case, x, "sdpa", fused=True),
    }
