"""The log-likelihood of a continuation: what multiple choice, last words and lm-evaluation-harness ask a model for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attnedit import ops
from attnedit.autograd import no_grad
from attnedit.data import Tokenizer
from attnedit.evaluate.compare import BATCH_TOKENS, OnTokens
from attnedit.models import Decoder
from attnedit.tensor import Array, full, tensor


@dataclass(frozen=True)
class Request:
    """Tokens, int32, at least one of each."""

    context: Array
    continuation: Array

    @property
    def inputs(self) -> Array:
        """What the model reads: all but the last token."""
        return np.concatenate([self.context, self.continuation[:-1]])


@dataclass(frozen=True)
class Likelihood:
    logprob: float  # of the whole continuation, nats
    tokens: int
    hits: int  # how many of its tokens are the most likely ones where they stand

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would have written it."""
        return self.hits == self.tokens


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """(context, continuation) as lm-evaluation-harness splits them (TemplateLM._encode_pair).

    White space at the context's end belongs to the continuation; both are encoded as one text, and what lies behind as
    many tokens as the context has by itself is the continuation. Without context it follows the token that documents
    begin with or are separated by.
    """
    stripped = [context.rstrip() for context, _ in pairs]
    distinct = list(dict.fromkeys(stripped))
    contexts = dict(zip(distinct, tokenizer.encode_documents(distinct), strict=True))
    wholes = tokenizer.encode_documents([context + continuation for context, continuation in pairs])
    begin = np.array([start_token(tokenizer)], np.int32)
    requests = []
    for text, whole in zip(stripped, wholes, strict=True):
        context = contexts[text]
        requests.append(Request(context, whole[len(context) :]) if len(context) else Request(begin, whole))
    return requests


def start_token(tokenizer: Tokenizer) -> int:
    """What stands before a text that has no context."""
    for token in (tokenizer.bos_id, tokenizer.document_separator):
        if token is not None:
            return token
    return 0


def likelihoods(model: Decoder, requests: Sequence[Request], on_tokens: OnTokens | None = None) -> list[Likelihood]:
    """Of every request, in the given order; they must fit the model's context.

    A row is computed once for all requests whose inputs it begins with: the choices A to D of a question are one row.
    Rows of similar length are batched, BATCH_TOKENS at a time. Logits of [tokens, vocabulary] are never held.
    """
    found: dict[int, Likelihood] = {}
    rows = _rows([request.inputs for request in requests])
    done, total = 0, sum(len(row) for row, _ in rows)
    with no_grad():
        for batch in _batches(rows):
            tokens = np.zeros((len(batch), len(batch[0][0])), np.int32)
            for b, (row, _) in enumerate(batch):
                tokens[b, : len(row)] = row
            asked = [(b, i) for b, (_, served) in enumerate(batch) for i in served]
            found |= _read(model, tokens, asked, requests)
            done += sum(len(row) for row, _ in batch)
            if on_tokens is not None:
                on_tokens(done, total)
    return [found[i] for i in range(len(requests))]


def _read(
    model: Decoder, tokens: Array, asked: list[tuple[int, int]], requests: Sequence[Request]
) -> dict[int, Likelihood]:
    """asked: (row of tokens [B, T], request). Only positions that predict a continuation meet the head."""
    hidden = model(tokens).numpy()
    at: list[Array] = []
    for b, i in asked:
        first = len(requests[i].context) - 1
        at.append(b * tokens.shape[1] + np.arange(first, first + len(requests[i].continuation)))
    labels = np.concatenate([requests[i].continuation for _, i in asked]).astype(np.int32)
    picked = tensor(hidden.reshape(-1, hidden.shape[-1])[np.concatenate(at)][None])
    predicted = ops.cross_entropy(picked, model.head, labels, full((len(labels),), 1.0))
    nll, hits = predicted.nll.numpy().astype(np.float64), predicted.argmax.numpy() == labels
    found, begin = {}, 0
    for (_, i), positions in zip(asked, at, strict=True):
        end = begin + len(positions)
        found[i] = Likelihood(-float(nll[begin:end].sum()), len(positions), int(hits[begin:end].sum()))
        begin = end
    return found


def _rows(inputs: Sequence[Array]) -> list[tuple[Array, list[int]]]:
    """(row, the inputs that it begins with), the longest first."""
    # Big-endian bytes sort as the tokens do, so whatever begins another stands right before what it begins.
    keys = [tokens.astype(">i4").tobytes() for tokens in inputs]
    rows: list[tuple[Array, list[int]]] = []
    longest = b""
    for i in sorted(range(len(keys)), key=keys.__getitem__, reverse=True):
        if rows and longest.startswith(keys[i]):
            rows[-1][1].append(i)
        else:
            rows.append((inputs[i], [i]))
            longest = keys[i]
    return sorted(rows, key=lambda row: -len(row[0]))


def _batches(rows: list[tuple[Array, list[int]]]) -> Iterator[list[tuple[Array, list[int]]]]:
    i = 0
    while i < len(rows):
        many = max(1, BATCH_TOKENS // len(rows[i][0]))
        yield rows[i : i + many]
        i += many
