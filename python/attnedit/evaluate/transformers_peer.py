"""Run as a program, in a process without attnedit: what decode_speed measures, by transformers' generate.

folder threads prefilled steps contexts... -> a line of JSON for each context
"""

import json
import sys
import time
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


def main() -> None:
    import torch
    import transformers

    folder, threads, prefilled, steps, *contexts = sys.argv[1:]
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
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
        times = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
        print(
            json.dumps(
                {"context": context, "tokens_per_second": 1 / median(times[1:]), "cache_bytes": clock.cache_bytes}
            )
        )


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
    main()
