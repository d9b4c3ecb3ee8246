"""Run as a program, in a process without attnedit: what decode_speed measures, by transformers' generate.

folder threads prefilled steps contexts... -> a line of JSON for each context
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any


def cached(model: Any, prompt: Any, context: int) -> Any:
    """transformers' cache of context - 1 tokens: the prompt [1, T] is computed, the others repeat it."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):  # a window's: it counts what it has dropped
            room, layer.cumulative_length = min(context - 1, layer.sliding_window - 1), context - 1
        else:
            room = context - 1
        for name in ("keys", "values"):
            held = getattr(layer, name)
            times = -(-room // held.shape[2])
            setattr(layer, name, held.repeat(1, 1, times, 1)[:, :, :room].contiguous())
    return cache


def loaded(folder: Path) -> Any:
    """The folder's model, by the library's own class or by ours: what code it brings along is never run."""
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind: Any = transformers.AutoModelForCausalLM
    if config["model_type"] == "attnedit":
        sys.path.append(str(Path(__file__).parents[1] / "hf"))  # the file needs torch and transformers only
        kind = importlib.import_module("modeling_attnedit").AttnEditForCausalLM
    elif config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = getattr(transformers, config["architectures"][0])
    return kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()


def main() -> None:
    import torch
    import transformers

    folder, threads, prefilled, steps, *contexts = sys.argv[1:]
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    model = loaded(Path(folder))
    model.generation_config.eos_token_id = None
    for context in map(int, contexts):
        torch.manual_seed(0)
        tokens = torch.randint(model.config.vocab_size, (1, context))
        cache = cached(model, tokens[:, : min(context - 1, int(prefilled))], context)
        clock = Clock(cache)
        model.generate(
            tokens, attention_mask=torch.ones_like(tokens), past_key_values=cache, max_new_tokens=int(steps) + 2,
            do_sample=False, stopping_criteria=[clock],
        )  # fmt: skip
        times = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)][1:]
        speeds = {"tokens_per_second": 1 / median(times), "slowest": 1 / max(times), "fastest": 1 / min(times)}
        print(json.dumps({"context": context, **speeds, "cache_bytes": clock.cache_bytes}))


class Clock:
    """Asked after every token whether to stop: notes the time, and how large the cache is behind the first."""

    def __init__(self, cache: Any) -> None:
        self.cache, self.cache_bytes = cache, 0
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        self.times.append(time.perf_counter())
        arrays = [array for layer in self.cache.layers for array in (layer.keys, layer.values)]
        self.cache_bytes = self.cache_bytes or sum(array.nbytes for array in arrays)
        return torch.zeros(len(input_ids), dtype=torch.bool)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
