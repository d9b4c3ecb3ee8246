"""lm-evaluation-harness drives an attnedit model: pip install attnedit[eval].

python -m attnedit.harness run --model attnedit --model_args pretrained=FOLDER --tasks arc_easy,lambada_openai
"""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

try:
    from lm_eval.api.model import TemplateLM
except ModuleNotFoundError as error:
    told = f"lm-evaluation-harness is not installed ({error}): pip install 'attnedit[eval]'"
    if __name__ == "__main__":
        raise SystemExit(f"attnedit: {told}") from None
    raise ModuleNotFoundError(told, name=error.name) from None
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from attnedit.checkpoint import read_object
from attnedit.data import ChatTemplate, Tokenizer
from attnedit.evaluate.loglikelihood import Likelihood, Request, likelihoods, start_token
from attnedit.generate import generate
from attnedit.models import load
from attnedit.tensor import Array

GOES_ON = "CONTINUE_FINAL_MESSAGE_TAG "  # marks where a message that is to be continued ends


@register_model("attnedit")
class AttnEditLM(TemplateLM):
    """A folder's model and tokenizer in the harness's terms; what is too long loses its beginning, as with its own.

    batch_size: prompts that are continued at once; log-likelihoods are batched by tokens. enable_thinking: what
    templates like Qwen3's ask, passed on where it is given.
    """

    def __init__(
        self,
        pretrained: str | Path,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        max_gen_toks: int = 256,
        enable_thinking: bool | None = None,
    ) -> None:
        super().__init__()
        self.model, self._tokenizer = load(pretrained), Tokenizer(pretrained)
        self.folder = Path(pretrained)
        self._variables = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
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
        tokens, front = (list(map(int, each)) for each in self._tokenizer.encode_documents([string, ""]))
        behind = tokens[len(front) :]
        # Chat templates write the token that texts begin with themselves.
        twice = add_special_tokens is None and behind[: len(front)] == front
        return behind if add_special_tokens is False or twice else tokens

    @property
    def tokenizer_name(self) -> str:
        return str(self.folder).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if isinstance(chat_template, str) and chat_template != "default":
            raise ValueError(f"[harness] apply_chat_template must be true or default, got {chat_template!r}")
        return self._template.source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """What the assistant says next, or without add_generation_prompt how the last message goes on."""
        said = [dict(message) for message in chat_history]
        if not add_generation_prompt:
            said[-1]["content"] += GOES_ON
        try:
            text = self._template.render(said, add_generation_prompt, **self._variables)
        except ValueError:
            others = [message for message in said if message["role"] != "system"]
            if len(others) == len(said):
                raise
            warnings.warn("[harness] the chat template takes no system message: it is left out", stacklevel=2)
            text = self._template.render(others, add_generation_prompt, **self._variables)
        if add_generation_prompt:
            return text
        begun, _, behind = text.rpartition(GOES_ON.rstrip())
        return begun if behind.startswith(" ") else begun.rstrip()  # as transformers: templates may trim what is said

    @cached_property
    def _template(self) -> ChatTemplate:
        settings = self.folder / "tokenizer_config.json"
        return ChatTemplate(self.folder, read_object(settings) if settings.is_file() else {})

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
