"""Chat templates: the Jinja program in a tokenizer's folder that writes messages as the text a model was trained on."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says, for training; here it is what it encloses."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A folder's chat_template.jinja, or the chat_template of its tokenizer_config.json.

    Templates are other people's programs: they run in Jinja's sandbox, with the variables and functions that
    transformers gives them. Raises ValueError in one line for a folder without one and for what does not render.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """config: the folder's tokenizer_config.json."""
        source = _source(folder, config)
        self._special = {key: _content(config[key]) for key in SPECIAL if config.get(key) is not None}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # whatever a wrong program makes the parser raise
            raise ValueError(f"[chat template] {folder}: {_line(error)}") from None

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **more: Any) -> str:
        """messages: {"role": ..., "content": ...}, as chat interfaces have them; more: the template's own variables.

        add_generation_prompt: up to where the assistant begins to speak.
        """
        if not messages:
            raise ValueError("[chat template] messages must have at least one message, got none")
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise ValueError(f"[chat template] message {i} must be a mapping with a role, got {message!r:.80}")
        variables = {"tools": None, "documents": None} | self._special | more
        try:
            return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **variables)
        except Exception as error:  # the template is somebody's program
            raise ValueError(f"[chat template] it does not render: {_line(error)}") from None


def read_messages(path: Path | None, user: str | None, system: str | None) -> list[dict[str, Any]]:
    """A conversation: the JSON list of messages at path, or what a user says, after a system message where given."""
    if path is None:
        said = {"system": system, "user": user}
        return [{"role": role, "content": content} for role, content in said.items() if content is not None]
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[chat template] {path} must be JSON: {error}") from None
    if not isinstance(messages, list):
        raise ValueError(f"[chat template] {path} must be a list of messages, got {type(messages).__name__}")
    return messages


def _source(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in written if isinstance(each, Mapping)}
        written = named.get("default")
    if not isinstance(written, str):
        raise ValueError(
            f"[chat template] {folder} must hold chat_template.jinja, or tokenizer_config.json a chat_template; "
            "models without one take prompts only"
        )
    return written


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _line(error: Exception) -> str:
    at = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return f"{at}{' '.join(str(error).split()) or type(error).__name__}"


def _tojson(x: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    """Jinja's own would escape for HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
