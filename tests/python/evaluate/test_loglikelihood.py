"""Log-likelihoods against all logits in float64, and how text becomes requests."""

from pathlib import Path

import numpy as np
import pytest
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit import runtime
from attnedit.data import Tokenizer
from attnedit.evaluate import loglikelihood as room
from attnedit.evaluate.loglikelihood import Likelihood, Request, encode_pairs, likelihoods
from attnedit.evaluate.task_files import read_questions
from attnedit.models import Decoder
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig, RopeParameters


def plain(model: Decoder, request: Request) -> Likelihood:
    """One row by itself, every logit."""
    logits = model.logits(request.inputs[None]).numpy()[0].astype(np.float64)[len(request.context) - 1 :]
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    picked = np.take_along_axis(logp, request.continuation[:, None].astype(int), 1)
    return Likelihood(
        float(picked.sum()), len(request.continuation), int((logits.argmax(1) == request.continuation).sum())
    )


def ints(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def agree(found: list[Likelihood], wanted: list[Likelihood]) -> None:
    assert [(each.tokens, each.hits) for each in found] == [(each.tokens, each.hits) for each in wanted]
    np.testing.assert_allclose([f.logprob for f in found], [w.logprob for w in wanted], rtol=0, atol=2e-4)


@pytest.mark.parametrize("batch_tokens", [1, 60, 4096])
def test_requests_in_any_mix_are_what_all_logits_say(batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH_TOKENS", batch_tokens)
    mixed = (GQAConfig(4, 2, 8), MLAConfig(4, 12, 6, 4, 8), GateSWAConfig(4, 2, 8, sliding_window=5))
    model = random_decoder(tiny_config(attention=mixed))
    rng = np.random.default_rng(0)
    requests = [
        Request(rng.integers(0, 37, rng.integers(1, 30), np.int32), rng.integers(0, 37, rng.integers(1, 9), np.int32))
        for _ in range(40)
    ]
    # The same context with other continuations, a beginning of another row, the same request twice.
    shared = requests[0].context
    requests += [Request(shared, ints(token)) for token in range(5)] + [Request(shared[:1], ints(3)), requests[7]]
    likeliest = int(model.logits(shared[None]).numpy()[0, -1].argmax())
    requests.append(Request(shared, ints(likeliest)))
    found = likelihoods(model, requests)
    agree(found, [plain(model, request) for request in requests])
    assert found[-1].is_greedy and not all(each.is_greedy for each in found)


def test_logits_of_a_long_row_are_never_held() -> None:
    """They alone would be 1,500 x 20,000 numbers, 120 MB; hidden states and the head are 2 MB."""
    model = random_decoder(tiny_config(vocab_size=20_000, rope=RopeParameters(max_position_embeddings=1500)))
    tokens = np.random.default_rng(0).integers(0, 20_000, 1501, np.int32)
    before = runtime.memory_allocated()
    runtime.reset_peak_memory_stats()
    (found,) = likelihoods(model, [Request(tokens[:1], tokens[1:])])
    assert found.tokens == 1500 and runtime.max_memory_allocated() - before < 30e6


def test_choices_of_one_token_are_one_row(teacher: Decoder) -> None:
    seen: list[tuple[int, int]] = []
    likelihoods(teacher, [Request(ints(1, 2, 3), ints(k)) for k in range(4)], lambda *count: seen.append(count))
    assert seen == [(3, 3)]
    seen.clear()
    likelihoods(teacher, [Request(ints(1, 2, 3), ints(k, 5)) for k in range(4)], lambda *count: seen.append(count))
    assert seen == [(16, 16)]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(write_teacher(tmp_path / "teacher", words(20, 0)))


def test_white_space_before_the_answer_belongs_to_it(tokenizer: Tokenizer) -> None:
    """The fixture's tokenizer puts token 0 in front, and has words with their space as tokens."""
    first, second, empty = encode_pairs(tokenizer, [("the river ", "falls"), ("the river", " falls"), ("", "falls")])
    assert first.context.tolist() == second.context.tolist() and first.continuation.tolist() == [
        tokenizer.token_id("Ġfalls")
    ]
    assert first.continuation.tolist() == second.continuation.tolist()
    assert empty.context.tolist() == [0] and tokenizer.decode(empty.continuation) == "falls"


def test_without_a_token_in_front_an_empty_context_is_the_end_of_text(material: Path) -> None:
    tokenizer = Tokenizer(material / "tokenizers" / "qwen2")
    (request,) = encode_pairs(tokenizer, [(" ", "Paris")])
    assert request.context.tolist() == [tokenizer.token_id("<|endoftext|>")]
    assert tokenizer.decode(request.continuation) == " Paris"


def test_real_items(material: Path) -> None:
    folder = material / "models" / "stories260K"
    model, tokenizer = ae.load(folder), Tokenizer(folder)
    questions = [
        question
        for name in ("arc_easy", "lambada_test")
        for question in read_questions(material / "evals" / f"{name}.jsonl", limit=3)
    ]
    requests = encode_pairs(tokenizer, [(q.context, choice) for q in questions for choice in q.choices])
    agree(likelihoods(model, requests), [plain(model, request) for request in requests])
