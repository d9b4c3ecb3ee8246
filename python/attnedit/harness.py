"""lm-evaluation-harness drives an attnedit model: pip install attnedit[eval].

python -m attnedit.harness run --model attnedit --model_args pretrained=FOLDER --tasks arc_easy,lambada_openai
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    from lm_eval.api.model import TemplateLM
except ModuleNotFoundError:
    raise SystemExit("attnedit: the harness is not installed: pip install 'attnedit[eval]'") from None
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from attnedit.data import Tokenizer
from attnedit.evaluate.loglikelihood import Likelihood, Request, likelihoods, start_token
from attnedit.generate import generate
from attnedit.models import load
from attnedit.tensor import Array


@register_model("attnedit")
class AttnEditLM(TemplateLM):
    """A folder's model and tokenizer in the harness's terms; what is too long loses its beginning, as with its own.

    batch_size: prompts that are continued at once; log-likelihoods are batched by tokens. Chat templates are left to
    `attnedit generate`.
    """

    def __init__(
        self,
        pretrained: str | Path,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_gen_toks: int = 256,
    ) -> None:
        super().__init__()
        self.model, self._tokenizer = load(pretrained), Tokenizer(pretrained)
        self.max_length = self.model.config.rope.max_position_embeddings
        self.max_gen_toks = max_gen_toks
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 1

    @property
    def eot_token_id(self) -> int:
        end = self._tokenizer.eos_id
        return start_token(self._tokenizer) if end is None else end

    @property
    def prefix_token_id(self) -> int:
        return start_token(self._tokenizer)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        (tokens,) = self._tokenizer.encode_documents([string])
        if add_special_tokens is False:
            tokens = tokens[len(self._tokenizer.encode_documents([""])[0]) :]
        return [int(token) for token in tokens]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **more: Any
    ) -> list[tuple[float, bool]]:
        answers = self._likelihoods([(context, continuation) for _, context, continuation in requests], disable_tqdm)
        found = [(answer.logprob, answer.is_greedy) for answer in answers]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [text for (text,) in (request.args for request in requests)]
        windows = [
            (i, make_disjoint_window(pair))
            for i, text in enumerate(texts)
            for pair in get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False), self.prefix_token_id, self.max_length, context_len=1
            )
        ]
        found = [0.0] * len(texts)
        answers = self._likelihoods([window for _, window in windows], disable_tqdm)
        for (i, _), answer in zip(windows, answers, strict=True):
            found[i] += answer.logprob
        for text, total in zip(texts, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [request.args for request in requests]
        found: dict[int, str] = {}
        # Those with the same options side by side, the longest first.
        order = sorted(range(len(asked)), key=lambda i: (repr(asked[i][1]), -len(asked[i][0])))
        while order:
            options = asked[order[0]][1]
            alike = [i for i in order[: self.batch_size] if asked[i][1] == options]
            order = order[len(alike) :]
            for i, text in zip(alike, self._generate([asked[i][0] for i in alike], options), strict=True):
                self.cache_hook.add_partial("generate_until", asked[i], text)
                found[i] = text
        return [found[i] for i in range(len(asked))]

    def _generate(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        wanted = normalize_gen_kwargs(options, self.max_gen_toks)
        new = wanted["max_gen_toks"]
        if new >= self.max_length:
            raise ValueError(f"[harness] max_gen_toks must be less than the context of {self.max_length}, got {new}")
        prompts: list[str | Array] = []
        for context in contexts:
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            prompts.append(np.array(tokens[new - self.max_length :], np.int32))
        sampled = {key: wanted[key] for key in ("top_k", "top_p", "seed") if wanted.get("do_sample") and key in wanted}
        made = generate(
            self.model, prompts, self._tokenizer, max_new_tokens=new, temperature=wanted.get("temperature", 0.0),
            stop=[text for text in wanted["until"] if text], **sampled,
        )  # fmt: skip
        return [each.text for each in made]

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]], disable_tqdm: bool) -> list[Likelihood]:
        requests = []
        for context, continuation in pairs:
            if not 1 <= len(continuation) <= self.max_length:
                raise ValueError(
                    f"[harness] a continuation must have 1 to {self.max_length} tokens, as the model's context, "
                    f"got {len(continuation)}"
                )
            kept = np.array([*context, *continuation][-self.max_length - 1 :], np.int32)
            requests.append(Request(kept[: -len(continuation)], kept[-len(continuation) :]))
        with tqdm(desc="log-likelihoods", unit=" tokens", disable=disable_tqdm) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return likelihoods(self.model, requests, show)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
