"""One token at a context of 8,192: a Qwen3 teacher and its two students; 8 layers of Qwen3-0.6B's width.

float32, one sequence. 512 tokens are computed and repeated in the cache up to 8,192; then comes the token that is
timed, from its embedding to the greatest of 151,936 logits. The students' attention is as initialised: MLA at random,
GateSWA with gates that do nothing yet, so that stock classes of transformers compute the same: Qwen3 with full and
sliding layers, and DeepseekV3, whose cache holds every head's keys and values. The work is the bytes that the
definition reads: all weights but the embedding, once, and the cache.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Case, Run
from flow.qwen3_to_mla import LATENT, LAYERS, QWEN, config_of, deepseek_config, drawn, filled, matrix_sizes

WINDOW = 128
PEER = Path(__file__).parents[2] / "python/attnedit/evaluate/transformers_peer.py"


def full_layers(layers: int) -> tuple[int, ...]:
    return tuple(range(0, layers, 4))


def read_bytes(kind: str, layers: int, context: int) -> float:
    """Of weights and of the cache, behind the newest token."""
    grouped, latent, _, mlp = matrix_sizes()
    a_token = 2 * QWEN["num_key_value_heads"] * QWEN["head_dim"]
    seen, full = context + 1, len(full_layers(layers))
    cache = {
        "teacher": layers * seen * a_token,
        "MLA 512+64": layers * seen * (LATENT["kv_lora_rank"] + LATENT["qk_rope_head_dim"]),
        "GateSWA 128": (full * seen + (layers - full) * WINDOW) * a_token,
    }
    attention = latent if kind.startswith("MLA") else grouped
    head = QWEN["hidden_size"] * config_of(layers)["vocab_size"]
    return 4.0 * (layers * (attention + mlp) + head + cache[kind])


CASES = [
    Case(
        f"Qwen3-0.6B width, {layers} layers, {kind} T{context}", "decode",
        {"kind": kind, "layers": layers, "context": context, "computed": computed}, "read",
        read_bytes(kind, layers, context), ("torch transformers",), tolerance=1e-3, long=True,
    )
    # Both lengths end at one slot of the window's ring, so that what is repeated lies as if it had been computed.
    for layers, context, computed in ((LAYERS, 8192, 512), (2, 288, 160))
    for kind in ("teacher", "MLA 512+64", "GateSWA 128")
]  # fmt: skip


def inputs(case: Case) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {
        "prompt": rng.integers(0, config_of(case.shape["layers"])["vocab_size"], (1, case.shape["computed"])).astype(
            np.int32
        ),
        "token": np.full(1, 7, np.int32),
    }


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    import attnedit as ae
    from attnedit.evaluate.decode_speed import cached
    from attnedit.models import Decoder, decode
    from attnedit.models.qwen3 import decoder_config
    from attnedit.tensor import tensor

    layers, context = case.shape["layers"], case.shape["context"]
    model = Decoder(decoder_config(config_of(layers)))
    for name, parameter in list(model.named_parameters()):
        model.set_parameter(name, tensor(drawn(name, parameter.shape)))
    if case.shape["kind"].startswith("GateSWA"):
        model = ae.edit(model, ae.GateSWA(WINDOW, full_layers(layers)))
    elif case.shape["kind"].startswith("MLA"):
        model = ae.edit(model, ae.MLA(**LATENT, init="random"))
        for name, parameter in list(model.named_parameters()):
            if ".self_attn." in name:
                model.set_parameter(name, tensor(drawn(f"student.{name}", parameter.shape)))
    cache = cached(model, x["prompt"][0], context + 1)

    def run() -> Mapping[str, Array]:
        cache.lengths[0] = context
        logits = decode(model, cache, x["token"], np.ones(1, bool))
        return {"logits": logits, "token": np.array([int(logits[0].argmax())])}

    return run


def in_transformers(case: Case, x: Mapping[str, Any]) -> Run:
    import torch
    import transformers

    spec = importlib.util.spec_from_file_location("transformers_peer", PEER)
    assert spec is not None and spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    kind, layers, context = (case.shape[k] for k in ("kind", "layers", "context"))
    if kind.startswith("MLA"):
        model = filled(transformers.DeepseekV3ForCausalLM, deepseek_config("sdpa", layers), {}).eval()
    else:
        full = full_layers(layers)
        windows = {
            "use_sliding_window": True, "sliding_window": WINDOW,
            "layer_types": ["full_attention" if i in full else "sliding_attention" for i in range(layers)],
        }  # fmt: skip
        config = transformers.Qwen3Config(**config_of(layers) | (windows if kind.startswith("GateSWA") else {}))
        config._attn_implementation = "sdpa"
        model = filled(transformers.Qwen3ForCausalLM, config, {}).eval()
    cache = peer.cached(model, x["prompt"].long(), context + 1)
    before = [(layer, dict(vars(layer))) for layer in cache.layers]
    token = x["token"].long()[None]

    def run() -> Mapping[str, Any]:
        for layer, state in before:  # a step appends by making new arrays
            vars(layer).update(state)
        with torch.inference_mode():
            logits = model(token, past_key_values=cache, use_cache=True).logits[:, -1]
            return {"logits": logits, "token": np.array([int(logits[0].argmax())])}

    return run


PEERS = {"torch transformers": in_transformers}
