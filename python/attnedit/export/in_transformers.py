"""What transformers computes from an exported folder. Run by another interpreter: needs numpy, torch and transformers.

python in_transformers.py FOLDER PROBE.npz OUT.npz
"""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def examine(folder: Path, tokens: Any, positions: Any, new_tokens: int) -> dict[str, Any]:
    """tokens int32 [B, T], positions [P] -> logits float32 [B, P, V] of whole passes in eager and sdpa and of passes in
    pieces over a cache, the greedy continuation of the first row without its last new_tokens, and the class's name.

    Raises ValueError if the library reports a tensor missing, left over or of another shape: logits are random then.
    """
    import torch
    import transformers

    raw = json.loads((folder / "config.json").read_text("utf-8"))
    ids, kept = torch.from_numpy(tokens).long(), torch.from_numpy(positions).long()
    found: dict[str, Any] = {}
    for attention in ("eager", "sdpa"):
        model, loading = _class_for(raw).from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
            trust_remote_code="auto_map" in raw,
        )  # fmt: skip
        wrong = {key: sorted(map(str, value)) for key, value in loading.items() if value}
        if wrong:
            raise ValueError(f"{type(model).__name__} reports {wrong}")
        model.eval()
        with torch.no_grad():
            found[attention] = model(ids, use_cache=False, logits_to_keep=kept).logits.float().numpy()
    settings = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=True
    )
    model.generation_config = settings  # the folder's own may hold penalties
    prompt = ids[:1, : ids.shape[1] - new_tokens]
    with torch.no_grad():
        found["cached"] = _in_pieces(model, ids, kept, new_tokens).float().numpy()
        grown = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return found | {"generated": grown[0].numpy(), "name": type(model).__name__, "version": transformers.__version__}


def _class_for(raw: dict[str, Any]) -> Any:
    """AutoModelForCausalLM, or the class by its name where the library has no causal entry for it."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if "auto_map" in raw or raw["model_type"] in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    return getattr(transformers, raw["architectures"][0])


def _in_pieces(model: Any, ids: Any, kept: Any, singles: int) -> Any:
    """Logits [B, P, V] at kept, in order: half the tokens at once, a few, most of the rest, the last one by one."""
    import torch

    length = ids.shape[1]
    edges = sorted({0, length // 2, min(length // 2 + 3, length - singles), *range(length - singles, length + 1)})
    cache, parts = None, []
    for begin, end in itertools.pairwise(edges):
        inside = kept[(kept >= begin) & (kept < end)] - begin
        out = model(ids[:, begin:end], past_key_values=cache, use_cache=True, logits_to_keep=inside)
        cache = out.past_key_values
        parts.append(out.logits)
    return torch.cat(parts, dim=1)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    probe = np.load(sys.argv[2])
    np.savez(sys.argv[3], **examine(Path(sys.argv[1]), probe["tokens"], probe["positions"], int(probe["new_tokens"])))
