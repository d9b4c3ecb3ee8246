"""Chat templates: rendered as transformers does, sandboxed, wrong ones told in a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from attnedit.data import ChatTemplate, chat_template, read_messages

HELLO = [{"role": "user", "content": "Hi"}]


def template(tmp_path: Path, source: str, **config: Any) -> ChatTemplate:
    return ChatTemplate(tmp_path, {"chat_template": source} | config)


def test_qwen3s_own(material: Path) -> None:
    folder = material / "tokenizers/qwen3"
    qwen = ChatTemplate(folder, json.loads((folder / "tokenizer_config.json").read_text()))
    system = {"role": "system", "content": "You are kind."}
    start = "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert qwen.render([system, *HELLO]) == start + "<|im_start|>assistant\n"
    assert qwen.render([system, *HELLO], add_generation_prompt=False) == start
    quiet = qwen.render([system, *HELLO], enable_thinking=False)
    assert quiet == start + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    earlier = [*HELLO, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."}, *HELLO]
    assert qwen.render(earlier) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )  # what it thought is left out
    tool = {"type": "function", "function": {"name": "größe", "parameters": {"<b>": 1}}}
    assert '\n{"type": "function", "function": {"name": "größe", "parameters": {"<b>": 1}}}\n</tools>' in qwen.render(
        HELLO, tools=[tool]
    )


def test_what_transformers_gives_a_template(tmp_path: Path) -> None:
    source = (
        "{{ bos_token }}{{ eos_token }}\n"
        "{%- for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}\n"
        "    {% generation %}{{ m.content | tojson }}{% endgeneration %}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') | length }}{{ tools is none }}{{ mood }}"
    )
    made = template(tmp_path, source, bos_token={"content": "<s>"}, eos_token="</s>")
    assert made.render([{"role": "user", "content": "<ä&\n>"}] * 2, mood="!") == '<s></s>"<ä&\\n>"4True!'


def test_where_templates_lie(tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    assert ChatTemplate(tmp_path, {"chat_template": several}).render(HELLO) == "yes"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert template(tmp_path, "config").render(HELLO) == "file"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", r"line 1: Expected an expression, got 'end of statement block'"),
        ("\n{{ a b }}", r"line 2: "),
        ("{{ raise_exception('roles must alternate') }}", "it does not render: roles must alternate"),
        ("{{ messages[0].content.nothing.more }}", "it does not render: .* has no attribute 'nothing'"),
        ("{{ messages.append(1) }}", "it does not render: access to attribute 'append' .* is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "it does not render: access to attribute '__class__' .* is unsafe"),
        ("{{ range(10000000) | list }}", "it does not render: Range too big"),
        ("{{ 1 // 0 }}", "it does not render: .*by zero"),
        ("{% include 'x' %}", "it does not render: no loader"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "it does not render: maximum recursion depth"),
        ("{{ 'a' * 10 ** 10 }}", "it does not render: it needs more than 512 MiB"),
        ("{{ 'a' * 10 ** 8 }}", "it writes 100000000 characters, more than 16777216"),
        ("{{ '%10000000000d' % 1 }}", "it does not render: "),
        (
            "{% set t = namespace(x='ab') %}{% for i in range(60) %}{% set t.x = t.x ~ t.x %}{% endfor %}{{ t.x }}",
            "it does not render: it needs more than 512 MiB",
        ),
        ("{{ '\\ud800' }}", "it does not render: .* surrogates not allowed"),
        ("{{ (lipsum.__globals__).os }}", "it does not render: access to attribute '__globals__' .* is unsafe"),
    ],
)
def test_wrong_programs_are_told_in_a_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\[chat template\] .*" + message) as told:
        template(tmp_path, source).render(HELLO)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3,
        "{{ 10 ** (10 ** 9) }}",  # already while it is compiled
    ],
)  # fmt: skip
def test_programs_that_go_on_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setitem(chat_template.LIMITS, "RLIMIT_CPU", 1)
    with pytest.raises(ValueError, match=r"^\[chat template\] it does not render: it needs more than 1 s of computing"):
        template(tmp_path, source).render(HELLO)


def test_what_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be as JSON has them"):
        template(tmp_path, "x").render(HELLO, tools=[print])
    with pytest.raises(ValueError, match="at most 1048576 characters, got more"):
        template(tmp_path, "x" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"must hold chat_template\.jinja"):
        ChatTemplate(tmp_path, {"chat_template": [{"name": []}, {"name": {}, "template": "x"}, 3]})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja must be UTF-8"):
        template(tmp_path, "x")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages must have at least one message"),
        (["Hi"], "message 0 must be a mapping with a role, got 'Hi'"),
        ([{"content": "Hi"}], "message 0 must be a mapping with a role"),
        ([*HELLO, {"role": "user"}], "message 1 must have content, text or a list of parts, got {'role': 'user'}"),
        ([{"role": "user", "content": 3}], "message 0 must have content, text or a list of parts, got "),
        ([{"role": "user", "content": "\udcff"}], "messages and variables must be as JSON has them: .* surrogates"),
    ],
)
def test_wrong_messages(tmp_path: Path, messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        template(tmp_path, "x").render(messages)


def test_a_message_may_call_tools_instead(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    source = "{% for m in messages %}{{ m.content or m.tool_calls[0].function.name }}\n{% endfor %}"
    assert template(tmp_path, source).render([*HELLO, called]) == "Hi\nlook\n"


def test_messages_as_files_and_words(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(HELLO))
    assert read_messages(path, None, None) == HELLO
    assert read_messages(None, "Hi", "Be kind.") == [{"role": "system", "content": "Be kind."}, *HELLO]
    for text, message in (
        (b"[", "must be JSON"), (b"{}", "must be a list of messages, got dict"), (b"\xff", "must be UTF-8, byte 0 is"),
    ):  # fmt: skip
        path.write_bytes(text)
        with pytest.raises(ValueError, match=message):
            read_messages(path, None, None)
    with pytest.raises(ValueError, match=r"must hold chat_template\.jinja, or tokenizer_config\.json"):
        ChatTemplate(tmp_path, {})
