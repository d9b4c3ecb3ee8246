"""Runs one chat template: JSON on stdin -> JSON on stdout. A process of its own, started by chat_template.py, since a
template is somebody's program: Jinja's sandbox keeps it from what is outside, but not from loops and from gigabytes.
"""

import json
import resource
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_TEXT = 2**24  # characters: longer than any model's context


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says, for training; here it is what it encloses."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def rendered(source: str, variables: dict[str, Any]) -> str:
    """With the variables and functions that transformers gives a template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    text = environment.from_string(source).render(variables)
    if len(text) > MOST_TEXT:
        raise ValueError(f"it writes {len(text)} characters, more than {MOST_TEXT}")
    text.encode()  # half a surrogate pair is no text
    return text


def _tojson(x: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    """Jinja's own would escape for HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def main() -> None:
    asked = json.load(sys.stdin)
    for kind, most in asked["limits"].items():
        limit = getattr(resource, kind)
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        answer = {"text": rendered(asked["source"], asked["variables"])}
    except MemoryError:
        answer = {"error": f"it needs more than {asked['limits']['RLIMIT_AS'] >> 20} MiB"}
    except Exception as error:  # whatever a wrong program raises
        at = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        said = " ".join(str(error)[:2000].split()) or type(error).__name__
        answer = {"error": at + said}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
