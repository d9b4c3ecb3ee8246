"""Causal attention: full, windowed and gated, grouped heads, MLA's training form, and documents that share a row.

Documents: a packed row; torch is given the same as a mask of blocks on the diagonal.

Arithmetic: every pair of a query and a key that see each other costs 2 (K + Kv) operations forward and 2 (3 K + 2 Kv)
backward: five products, the scores among them again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from case import SHAPES, Array, Case, Run, empty, normal, torch_run

TORCH = ("torch sdpa",)


def cases_of(
    model: str, time: int, window: int = 0, gate: bool = False, scale: float = 1, documents: int = 1,
    peers: tuple[str, ...] = TORCH, directions: tuple[str, ...] = ("f+b",), note: str = "", **options: Any,
) -> list[Case]:  # fmt: skip
    m = SHAPES[model]
    heads = m["num_attention_heads"]
    key = m.get("head_dim") or m["qk_nope_head_dim"] + m["qk_rope_head_dim"]
    value = m.get("v_head_dim", key)
    shape = {"T": time, "H": heads, "G": m.get("num_key_value_heads", heads), "K": key, "Kv": value,
             "window": window, "gate": gate, "scale": scale, "documents": documents}  # fmt: skip
    each = time // documents
    outside = max(0, each - window) * (each - window + 1) // 2 if window else 0
    pairs = heads * documents * (each * (each + 1) // 2 - outside)
    work = {"forward": 2.0 * pairs * (key + value), "f+b": 2.0 * pairs * (4 * key + 3 * value)}
    name = " ".join(filter(None, (model, f"T{time}", f"W{window}" if window else "", "gated" if gate else "", note)))
    return [Case(name, d, shape, "fma", work[d], peers, **options) for d in directions]


ALONE: dict[str, Any] = {"peers": ()}  # for the pictures
# What the figures are about, in both ways to multiply.
MAIN = [
    *cases_of("16 heads of 128", 512),
    *cases_of("16 heads of 128", 2048),
    *cases_of("Qwen3-0.6B", 4096, window=512, gate=True),
    *cases_of("Qwen3-0.6B as MLA", 2048, peers=("torch sdpa", "torch sdpa, v padded")),
]
CASES = [
    *cases_of("16 heads of 128", 2048, directions=("forward",)),
    *MAIN,
    *(case.in_bfloat16(*case.peers) for case in MAIN),
    # Far-away scores make subnormal probabilities unless a kernel avoids them: must cost what the case above costs.
    *cases_of("16 heads of 128", 512, scale=30, note="huge scores", tolerance=1e-3),
    *cases_of("16 heads of 128", 2048, documents=8, note="8 documents"),
    *(case for t in (2048, 8192, 32768) for case in cases_of("Qwen3-0.6B", t, 512, True, **ALONE)),
    *(case for w in (128, 256, 1024, 2048) for case in cases_of("Qwen3-0.6B", 4096, w, True, **ALONE)),
    *(case for t in (1024, 4096) for case in cases_of("16 heads of 128", t, **ALONE)),
    *cases_of("16 heads of 128", 2048, threads=1, **ALONE),
    *cases_of("demo teacher", 256, directions=("forward", "f+b"), long=True),
    *cases_of("demo teacher", 256, documents=4, note="4 documents", long=True),
    *cases_of("16 heads of 128", 512, directions=("forward",), long=True),
    *cases_of("Qwen3-0.6B", 4096, window=512, gate=True, directions=("forward",), long=True),
    *cases_of("Qwen3-0.6B as MLA", 2048, directions=("forward",), long=True),
    *cases_of("Qwen3-0.6B", 16384, 512, True, peers=(), long=True),
    *cases_of("Qwen3-0.6B", 2048, long=True),
    *cases_of("Qwen3-8B", 1024, long=True),
    *cases_of("Qwen3-30B-A3B", 1024, long=True),
]


def inputs(case: Case) -> dict[str, Array]:
    s = case.shape
    made = {
        "q": normal((1, s["T"], s["H"] * s["K"]), 1, s["scale"]),
        "k": normal((1, s["T"], s["G"] * s["K"]), 2),
        "v": normal((1, s["T"], s["G"] * s["Kv"]), 3),
        "dy": normal((1, s["T"], s["H"] * s["Kv"]), 4),
    }
    each = s["T"] // s["documents"]
    starts = (np.arange(s["T"], dtype=np.int32) // each * each)[None]
    return made | {"starts": starts} | ({"gate": normal((1, s["T"], s["H"]), 5)} if s["gate"] else {})


def ours(case: Case, x: Mapping[str, Array]) -> Run:
    from attnedit import _core

    s, gate = case.shape, x.get("gate")
    starts = x["starts"] if s["documents"] > 1 else None
    settings = starts, s["H"], s["G"], s["K"] ** -0.5, s["window"], "sigmoid"
    o, lse = empty(*x["dy"].shape), empty(1, s["H"], s["T"])
    y = None if gate is None else empty(*o.shape)
    answers = {"y": o if y is None else y}
    if case.backward:
        answers |= {f"d{name}": empty(*x[name].shape) for name in ("q", "k", "v", "gate") if name in x}

    def run() -> Mapping[str, Array]:
        _core.attention_forward(x["q"], x["k"], x["v"], gate, *settings, case.dtype, o, y, lse)
        if case.backward:
            grads = (answers[f"d{name}"] for name in "qkv")
            _core.attention_backward(
                x["dy"], x["q"], x["k"], x["v"], gate, *settings, case.dtype, o, lse, *grads, answers.get("dgate")
            )
        return answers

    return run


def sdpa(case: Case, x: Mapping[str, Any], pad: bool = False) -> Run:
    """As models call it: grouped heads repeated, a boolean mask for a window or documents, the gate behind it."""
    import torch
    from torch.nn import functional

    s = case.shape
    distance = torch.arange(s["T"])[:, None] - torch.arange(s["T"])
    mask = None
    if s["window"]:
        mask = (distance >= 0) & (distance < s["window"])
    elif s["documents"] > 1:
        mask = (distance >= 0) & (x["starts"][0][:, None] == x["starts"][0])

    def heads(t: Any, count: int) -> Any:
        return t.unflatten(2, (count, -1)).transpose(1, 2).repeat_interleave(s["H"] // count, dim=1)

    def function(q: Any, k: Any, v: Any, gate: Any = None, **_: Any) -> Mapping[str, Any]:
        q, k, v = heads(q, s["H"]), heads(k, s["G"]), heads(v, s["G"])
        if pad:
            v = functional.pad(v, (0, s["K"] - s["Kv"]))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        y = y[..., : s["Kv"]].transpose(1, 2)
        return {"y": (y if gate is None else y * torch.sigmoid(gate).unsqueeze(-1)).flatten(2)}

    wanted = tuple(n for n in ("q", "k", "v", "gate") if n in x) if case.backward else ()
    return torch_run(case, x, wanted, function)


PEERS = {"torch sdpa": sdpa, "torch sdpa, v padded": lambda case, x: sdpa(case, x, pad=True)}
