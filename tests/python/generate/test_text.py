"""Text as it comes: whole characters, nothing lost, nothing from a stop string on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import words, write_teacher

from attnedit.data import Tokenizer
from attnedit.generate.text import TextStream


@pytest.fixture(scope="module")
def bytes_of_words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE that was trained on English words only: other characters are a token a byte."""
    return Tokenizer(write_teacher(tmp_path_factory.mktemp("tokenizer") / "teacher", words(20, 0)))


def pieces(tokenizer: Tokenizer, text: str, prompt: str, stops: list[str]) -> tuple[list[str], TextStream]:
    ids = tokenizer.encode_documents([prompt + text])[0]
    # The prompt's tokens, as far as both agree.
    own = tokenizer.encode_documents([prompt])[0]
    same = next((i for i, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), len(own))
    stream = TextStream(tokenizer, ids[:same], stops)
    got = []
    for token in ids[same:]:
        got.append(stream.push(int(token)))
        if stream.stopped:
            return [tokenizer.decode(ids[:same]), *got], stream
    return [tokenizer.decode(ids[:same]), *got, stream.finish()], stream


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_pieces_are_the_text(bytes_of_words: Tokenizer, text: str) -> None:
    got, _ = pieces(bytes_of_words, text, "the ", [])
    assert "".join(got) == "the " + text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in got)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 299), max_size=30))
def test_any_tokens_give_text_at_once(bytes_of_words: Tokenizer, ids: list[int]) -> None:
    """Bytes that are no characters are shown as such, at most four tokens later."""
    stream, held = TextStream(bytes_of_words, np.zeros(0, np.int32), []), 0
    for token in ids:
        held = 0 if stream.push(token) else held + 1
        assert held < 4
    stream.finish()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab é🙂", max_size=24), st.lists(st.text("ab é🙂", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(bytes_of_words: Tokenizer, text: str, stops: list[str]) -> None:
    """Wherever the tokens' boundaries lie in it."""
    prompt = "stone"
    got, stream = pieces(bytes_of_words, text, prompt, stops)
    made = "".join(got[1:])
    whole = (prompt + text)[len(got[0]) :]
    first = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=None)
    assert stream.stopped == (first is not None)
    # A longer stop string that begins earlier may end later: what was found first in the stream counts.
    if first is None:
        assert made == whole
    else:
        assert whole.startswith(made) and any(whole[len(made) :].startswith(stop) for stop in stops)


def test_a_real_stop_string_across_tokens(material: Path) -> None:
    tokenizer = Tokenizer(material / "models/stories260K")
    got, stream = pieces(tokenizer, " a time, there was a girl", "Once upon", ["here w"])
    assert "".join(got) == "Once upon a time, t" and stream.stopped


def test_bytes_that_are_no_characters(material: Path) -> None:
    """Byte fallback: a run of bytes is a text as a whole or not at all."""
    tokenizer = Tokenizer(material / "models/stories260K")
    rng = np.random.default_rng(0)
    for _ in range(20):
        stream = TextStream(tokenizer, np.array([1], np.int32), [])
        assert "".join(stream.push(int(token)) for token in rng.integers(3, 259, 40)) + stream.finish()
