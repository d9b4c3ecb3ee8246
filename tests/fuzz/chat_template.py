"""data/chat_template.py: a template, rendered in its own process; few a second, and none of it instrumented."""

from pathlib import Path

from attnedit.data import ChatTemplate

SOURCES = [
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}",
    "{% set ns = namespace(x='') %}{% for i in range(9) %}{% set ns.x = ns.x ~ 'ab' * 3 %}{% endfor %}{{ ns.x }}",
    "{% macro f(x) %}{{ x | tojson(indent=2) }}{% endmacro %}{{ f(messages[0]) }}{{ strftime_now('%d %b %Y') }}",
    "{{ messages.__class__ }}{{ ''.join(['a', 'b']).center(9) }}{{ '%5d' % 3 }}{{ '{:>9}'.format(1) }}{{ 2 ** 9 }}",
    "{% generation %}{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}{% endgeneration %}",
]


def seeds() -> list[bytes]:
    return [source.encode() for source in SOURCES]


def one_input(data: bytes, folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(data)
    ChatTemplate(folder, {}).render([{"role": "user", "content": "Hi"}]).encode()
