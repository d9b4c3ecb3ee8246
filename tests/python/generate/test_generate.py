"""Generation as people call it: batches, ends, stops, streaming, and what it refuses."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit import cli, ops
from attnedit.data import Tokenizer
from attnedit.generate import generate, stream
from attnedit.models import Decoder
from attnedit.nn import GateSWAConfig, GQAConfig, MLAConfig

MIXED = (GQAConfig(4, 2, 8), MLAConfig(4, 12, 6, 4, 8), GateSWAConfig(4, 2, 8, sliding_window=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "teacher", words(20, 0))


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return ae.load(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


def prompts_of(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(1, 37, n).astype(np.int32) for n in lengths]


def test_greedy_is_the_likeliest_token_of_whole_passes() -> None:
    model = random_decoder(tiny_config(attention=MIXED))
    prompts = prompts_of(1, 9, 4)
    for prompt, made in zip(prompts, generate(model, prompts, max_new_tokens=12), strict=True):
        ids = prompt
        for token in made.tokens:
            assert int(model.logits(ids[None]).numpy()[0, -1].argmax()) == token
            ids = np.append(ids, token).astype(np.int32)
        assert made.finish_reason == "length" and len(made.tokens) == 12 and made.text == ""


def test_a_sequence_draws_the_same_whatever_its_neighbours() -> None:
    model = random_decoder(tiny_config(attention=MIXED))
    options: dict[str, Any] = {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "max_new_tokens": 10}
    first, second = prompts_of(5, 8)
    alone = generate(model, [first], seed=3, **options)[0].tokens
    np.testing.assert_array_equal(generate(model, [first, second], seed=3, **options)[0].tokens, alone)
    assert generate(model, [first], seed=4, **options)[0].tokens.tolist() != alone.tolist()
    same = generate(model, [first, first], seed=3, **options)
    assert same[0].tokens.tolist() != same[1].tokens.tolist()  # each draws for itself


def test_end_and_stop_tokens_end_their_own_sequence() -> None:
    prompts = prompts_of(5, 8)
    free = generate(random_decoder(tiny_config(attention=MIXED)), prompts, max_new_tokens=12)
    end = int(free[0].tokens[3])
    until = list(free[0].tokens).index(end) + 1
    ending = random_decoder(tiny_config(attention=MIXED, eos_token_id=[36, end]))
    assert end not in free[1].tokens, "choose another seed"
    for made, reason in (
        (generate(ending, prompts, max_new_tokens=12), "eos"),
        (generate(random_decoder(tiny_config(attention=MIXED)), prompts, max_new_tokens=12, stop=[end]), "stop"),
    ):
        assert made[0].tokens.tolist() == free[0].tokens[:until].tolist() and made[0].finish_reason == reason
        assert made[1].tokens.tolist() == free[1].tokens.tolist() and made[1].finish_reason == "length"


def test_text_comes_in_pieces_and_ends_before_a_stop_string(model: Decoder, tokenizer: Tokenizer) -> None:
    options: dict[str, Any] = {"max_new_tokens": 30, "temperature": 1.0, "seed": 6}
    (whole,) = generate(model, ["the river"], tokenizer, **options)
    pieces = list(stream(model, ["the river"], tokenizer, **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.token for piece in pieces] == whole.tokens.tolist()
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    stop = whole.text[7:12]
    at = whole.text.find(stop)
    (made,) = generate(model, ["the river"], tokenizer, stop=["not in it", stop], **options)
    assert made.text == whole.text[:at] and made.finish_reason == "stop"
    assert made.tokens.tolist() == whole.tokens[: len(made.tokens)].tolist()


def test_who_stops_early_has_what_came_so_far(model: Decoder, tokenizer: Tokenizer) -> None:
    whole = generate(model, ["the river"], tokenizer, max_new_tokens=20)[0]
    begun = stream(model, ["the river"], tokenizer, max_new_tokens=20)
    got = [next(begun) for _ in range(7)]
    assert [piece.token for piece in got] == whole.tokens[:7].tolist()
    assert whole.text.startswith("".join(piece.text for piece in got))


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([], {}, r"prompts must be a list of at least one prompt, got \[\]"),
        ("the", {}, "prompts must be a list of at least one prompt, got 'the'"),
        (["the"], {"tokenizer": None}, "prompt 0 is text, so a tokenizer must be given, got none"),
        ([[1], []], {}, "prompt 1 must have at least one token, got none"),
        (["the", ""], {}, "prompt 1 must be some text, got ''"),
        ([[1, 300]], {}, "prompt 0 must have tokens from 0 to 299, got 1 to 300"),
        ([[0.5]], {}, r"prompt 0 must be text or whole numbers \[T\], got \[0.5\]"),
        ([[1, [2]]], {}, r"prompt 0 must be text or whole numbers \[T\], got \[1, \[2\]\]"),
        ([[1] * 60], {"max_new_tokens": 5}, "prompt 0 and new tokens must fit max_position_embeddings 64, got 60 + 5"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        (None, {}, "prompts must be a list of at least one prompt, got None"),
        ([None], {}, r"prompt 0 must be text or whole numbers \[T\], got None"),
        (["the \udcff"], {}, r"prompt 0 must be Unicode text, got 'the \\udcff'"),
        ([[1]], {"max_new_tokens": 1.5}, r"max_new_tokens must be a whole number, got 1.5"),
        ([[1]], {"temperature": "a"}, "temperature must be a number, got 'a'"),
        ([[1]], {"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ([[1]], {"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ([[1]], {"top_p": 0.0}, "top_p must be greater than 0, got 0.0"),
        ([[1]], {"seed": None}, "seed must be a whole number, got None"),
        ([[1]], {"eos_token_id": "</s>"}, "eos_token_id must be a whole number or a list, got '</s>'"),
        ([[1]], {"stop": "abc"}, "stop must be a list, got 'abc'"),
        ([[1]], {"stop": [""]}, "stop.0 must be a whole number or some text, got ''"),
        ([[1]], {"stop": ["a"], "tokenizer": None}, "the stop string 'a' needs a tokenizer"),
        ([[1]], {"stop": [300]}, "a stop token must be from 0 to 299, got 300"),
        ([[1]], {"cache_dtype": "int4"}, "cache_dtype must be 'float32', 'bfloat16' or 'float16', got 'int4'"),
        ([[1]], {"temperature": -1.0}, "temperature must be at least 0"),
    ],
)
def test_it_refuses_by_name(
    model: Decoder, tokenizer: Tokenizer, prompts: Any, changes: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"tokenizer": tokenizer, "max_new_tokens": 3} | changes
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        stream(model, prompts, **options)


def test_numpys_numbers_are_numbers(model: Decoder) -> None:
    said: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.5, "top_k": 9, "eos_token_id": [4, 7], "seed": 2}
    theirs = {key: np.array(value)[()] for key, value in said.items()}
    first, second = (generate(model, [[1, 2]], stop=[8], **each)[0].tokens.tolist() for each in (said, theirs))
    assert first == second


def test_names_are_no_models(model: Decoder) -> None:
    with pytest.raises(TypeError, match="model must be a Decoder, as load gives it, got 'folder'"):
        generate("folder", [[1]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tokenizer must be a data\.Tokenizer, got 'folder'"):
        generate(model, ["a"], "folder")  # type: ignore[arg-type]


def test_what_has_no_effect_is_told(folder: Path, model: Decoder, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"top_k, seed not used: greedy, as nothing is drawn without a temperature"):
        generate(model, [[1]], max_new_tokens=1, top_k=3, seed=1)
    penalised = with_settings(folder, tmp_path / "qwen2.5", QWEN | {"repetition_penalty": 1.05, "typical_p": 1.0})
    with pytest.warns(UserWarning, match=r"\[generation_config.json\] not applied: repetition_penalty 1.05$"):
        generate(penalised, [[1]])
    warm = with_settings(folder, tmp_path / "warm", QWEN | {"temperature": 1.5})
    generate(warm, [[1]])


def with_settings(folder: Path, copy: Path, settings: object) -> Decoder:
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (shutil.copytree(folder, copy) / "generation_config.json").write_text(text)
    return ae.load(copy)


QWEN = {"bos_token_id": 0, "do_sample": True, "eos_token_id": [7, 9], "temperature": 0.6, "top_k": 20, "top_p": 0.95,
        "max_new_tokens": 9, "transformers_version": "4.51.0"}  # fmt: skip


def test_the_folders_settings_hold_where_nothing_else_is_said(folder: Path, tmp_path: Path) -> None:
    model, plain = with_settings(folder, tmp_path / "qwen", QWEN), ae.load(folder)
    prompts = prompts_of(5, 8)
    said: dict[str, Any] = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_new_tokens": 9, "eos_token_id": [7, 9]}

    def tokens(model: Decoder, **options: Any) -> list[list[int]]:
        return [made.tokens.tolist() for made in generate(model, prompts, **options)]

    sampled = tokens(model, seed=2)
    assert sampled == tokens(plain, seed=2, **said) != tokens(plain, max_new_tokens=9)
    assert all(len(each) == 9 for each in sampled)
    for change in ({"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.5}, {"max_new_tokens": 4}):
        assert tokens(model, seed=2, **change) == tokens(plain, seed=2, **(said | change)) != sampled, change
    with pytest.warns(UserWarning, match="top_k, top_p not used"):
        assert tokens(model, temperature=0) == tokens(plain, **(said | {"temperature": 0}))
    end = sampled[0][3]
    (first, _) = generate(model, prompts, seed=2, eos_token_id=end)
    assert first.finish_reason == "eos" and first.tokens.tolist() == sampled[0][: sampled[0].index(end) + 1]
    ending = with_settings(folder, tmp_path / "ending", QWEN | {"eos_token_id": [299, end]})
    assert generate(ending, prompts, seed=2)[0].tokens.tolist() == first.tokens.tolist()
    assert tokens(ending, seed=2, eos_token_id=[]) == sampled


def test_a_folder_that_does_not_sample_is_greedy(folder: Path, tmp_path: Path) -> None:
    plain, prompts = ae.load(folder), prompts_of(5)
    greedy = generate(plain, prompts)[0].tokens.tolist()
    settings = {"temperature": 0.6, "top_k": 2, "eos_token_id": None, "max_new_tokens": None}
    made = with_settings(folder, tmp_path / "greedy", settings)
    assert generate(made, prompts)[0].tokens.tolist() == greedy
    sampled = [generate(model, prompts, temperature=1.0, **more)[0].tokens.tolist()
               for model, more in ((made, {}), (plain, {"top_k": 2}), (plain, {}))]  # fmt: skip
    assert sampled[0] == sampled[1] != sampled[2]
    library = with_settings(folder, tmp_path / "library", {"do_sample": True})  # its defaults: 1.0, 50, 1.0
    assert generate(library, prompts)[0].tokens.tolist() == (
        generate(plain, prompts, temperature=1.0, top_k=50)[0].tokens.tolist()
    )


def test_nobody_asked_for_more_than_fits(folder: Path, tmp_path: Path) -> None:
    prompts = prompts_of(60, 3)
    assert [len(made.tokens) for made in generate(ae.load(folder), prompts, eos_token_id=[])] == [4, 4]
    long = with_settings(folder, tmp_path / "long", {"max_new_tokens": 5000})
    assert [len(made.tokens) for made in generate(long, prompts, eos_token_id=[])] == [4, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "hot"}, "[generation_config.json] temperature must be a number, got 'hot'"),
        ({"temperature": -1}, "[generation_config.json] temperature must be at least 0, got -1"),
        ({"top_k": 2.5}, "[generation_config.json] top_k must be a whole number, got 2.5"),
        ({"top_p": 0}, "[generation_config.json] top_p must be greater than 0, got 0"),
        ({"do_sample": "yes"}, "[generation_config.json] do_sample must be true or false, got 'yes'"),
        ({"max_new_tokens": 0}, "[generation_config.json] max_new_tokens must be at least 1, got 0"),
        ({"eos_token_id": ["</s>"]}, "[generation_config.json] eos_token_id.0 must be a whole number, got '</s>'"),
        ("{", "generation_config.json must be JSON"),
        ("[]", "generation_config.json must be a JSON object, got list"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_line(
    folder: Path, tmp_path: Path, settings: object, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(with_settings(folder, tmp_path / "bad", settings), prompts_of(3))
    assert run(monkeypatch, "generate", tmp_path / "bad", "--prompt", "a") == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_settings_go_with_the_student(folder: Path, tmp_path: Path) -> None:
    teacher = with_settings(folder, tmp_path / "qwen", QWEN)
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8, init="svd"))
    again = ae.load(ae.export(student, tmp_path / "out", "deepseek_v3"))
    assert student.config.generation == QWEN
    assert again.config.generation == QWEN | {"eos_token_id": [7, 9], "bos_token_id": 0, "pad_token_id": None}


def test_both_ways_to_generate_take_the_same_options() -> None:
    assert inspect.signature(generate).parameters == inspect.signature(stream).parameters


def test_a_cache_beyond_the_memory_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder(tiny_config())
    monkeypatch.setattr(ae.runtime, "mem_get_info", lambda: (1000, 10**9))
    with pytest.raises(MemoryError, match="the cache of 2 x 13 tokens in float32 must fit the memory that is free"):
        stream(model, prompts_of(3, 2), max_new_tokens=10)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(cli.sys, "argv", ["attnedit", *map(str, arguments)])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_shows_what_came_before_it_was_interrupted(
    folder: Path, model: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = generate(model, ["the river"], tokenizer, max_new_tokens=20)[0].text
    assert run(monkeypatch, "generate", folder, "--prompt", "the river", "--max-new-tokens", 20) == 0
    assert capsys.readouterr().out == f"the river{whole}\n"
    calls, linear = [], ops.linear

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 200:
            raise KeyboardInterrupt
        return linear(*arguments)

    monkeypatch.setattr(ops, "linear", interrupted)
    assert run(monkeypatch, "generate", folder, "--prompt", "the river", "--max-new-tokens", 20) == 130
    shown = capsys.readouterr()
    assert shown.out.startswith("the river") and f"the river{whole}".startswith(shown.out.removesuffix("\n"))
    assert 9 < len(shown.out) < len(whole) and shown.err == ""


def test_the_command_refuses_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ((), "[generate] one of --prompt, --chat, --messages must be given, got none"),
        (
            ("--prompt", "a", "--chat", "b"),
            "[generate] one of --prompt, --chat, --messages must be given, got --prompt and --chat",
        ),
        (("--prompt", "a", "--system", "b"), "[generate] --system must come with --chat, got --prompt"),
        (("--prompt", "a", "--stop", "\udcff"), "Invalid value for '--stop': it must be UTF-8"),
        (("--prompt", "a", "--stop-token", "<|no|>"), "[tokenizer] token '<|no|>' is not in the vocabulary"),
        (("--chat", "hello"), f"[chat template] {folder} must hold chat_template.jinja"),
    ):
        assert run(monkeypatch, "generate", folder, *arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"attnedit: {message}") and told.count("\n") == 1


def test_the_command_chats(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talking = shutil.copytree(folder, tmp_path / "talking")
    (talking / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}>")
    assert run(monkeypatch, "generate", talking, "--chat", "the tree", "--system", "a", "--max-new-tokens", 5) == 0
    ids = Tokenizer(folder)._tokenizer.encode("system: a\nuser: the tree\n>", add_special_tokens=False).ids
    assert (
        capsys.readouterr().out == generate(ae.load(folder), [ids], Tokenizer(folder), max_new_tokens=5)[0].text + "\n"
    )
    (tmp_path / "talk.json").write_text('[{"role": "user", "content": "the tree"}]')
    assert run(monkeypatch, "generate", talking, "--messages", tmp_path / "talk.json", "--max-new-tokens", 5) == 0
    (tmp_path / "talk.json").write_text("{")
    assert run(monkeypatch, "generate", talking, "--messages", tmp_path / "talk.json") == 2
    assert "talk.json must be JSON" in capsys.readouterr().err
