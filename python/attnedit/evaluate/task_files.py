"""Task files: the layouts that multiple-choice and last-word tasks come in."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from attnedit.checked import shown
from attnedit.foreign import parse_json, parse_object

# What a record is recognised by. The first and third are llm-foundry's, the fourth is LAMBADA's own.
LAYOUTS = (("query", "choices", "gold"), ("prompt", "options", "input_label"), ("context", "continuation"), ("text",))


class UnknownLayout(ValueError):
    pass


@dataclass(frozen=True)
class Question:
    """A context and what may follow it, white space between them included; one choice is a text to be predicted."""

    where: str  # file and line, for messages
    context: str
    choices: tuple[str, ...]
    gold: int


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """The first `limit` questions of a .jsonl file, or of a .json file that is a list or an object with one list.

    Raises ValueError in one line for what is no question, naming the line (of .json: the item).
    """
    records = list(islice(_records(path), limit))
    if not records:
        raise ValueError(f"[tasks] {path} must have at least one item, got none")
    where, first = records[0]
    layout = next((keys for keys in LAYOUTS if set(keys) <= set(first)), None)
    if layout is None:
        known = "; ".join(", ".join(keys) for keys in LAYOUTS)
        raise UnknownLayout(f"[tasks] {where} must have the keys of a known layout ({known}), got {shown(list(first))}")
    return [_question(where, record, layout) for where, record in records]


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path} line {number}"
                    yield where, parse_object(line.strip(), f"[tasks] {where}")
    elif path.suffix == ".json":
        for number, record in enumerate(_list(path), 1):
            if not isinstance(record, dict):
                raise ValueError(f"[tasks] {path} item {number} must be an object, got {type(record).__name__}")
            yield f"{path} item {number}", record
    else:
        raise ValueError(f"[tasks] {path} must end in .jsonl or .json")


def _list(path: Path) -> list[Any]:
    parsed = parse_json(path.read_bytes(), f"[tasks] {path}")
    if isinstance(parsed, dict):
        lists = [value for value in parsed.values() if isinstance(value, list)]
        parsed = lists[0] if len(lists) == 1 else None
    if not isinstance(parsed, list):
        raise ValueError(f"[tasks] {path} must be a list of items, or an object that holds one list")
    return parsed


def _question(where: str, record: dict[str, Any], layout: tuple[str, ...]) -> Question:
    for key in layout:
        if key not in record:
            raise ValueError(
                f"[tasks] {where} must have the key {key!r} as the first item has, got {shown(list(record))}"
            )
    context = record[layout[0]]
    if not isinstance(context, str):
        raise ValueError(f"[tasks] {where}: {layout[0]} must be text, got {type(context).__name__}")
    if len(layout) == 1:
        return _last_word(where, context)
    if len(layout) == 2:
        choices, gold = [record[layout[1]]], 0
    else:
        choices, gold = record[layout[1]], record[layout[2]]
        if not isinstance(choices, list) or len(choices) < 2:
            raise ValueError(f"[tasks] {where}: {layout[1]} must be a list of at least 2 texts, got {shown(choices)}")
        if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
            raise ValueError(f"[tasks] {where}: {layout[2]} must be from 0 to {len(choices) - 1}, got {shown(gold)}")
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise ValueError(f"[tasks] {where}: {layout[1]} must be text that is not empty, got {shown(choice)}")
    if context.startswith("Question:") and not context.rstrip().endswith("Answer:"):
        context += "\nAnswer:"  # the prompt that the harness gives ARC
    return Question(where, context, tuple(" " + choice.lstrip(" ") for choice in choices), gold)


def _last_word(where: str, text: str) -> Question:
    """Split at the last space, as lm-evaluation-harness does for LAMBADA."""
    context, _, word = text.rpartition(" ")
    if not word.strip():
        raise ValueError(f"[tasks] {where}: text must end with the word that is asked for, got {text[-40:]!r}")
    return Question(where, context, (" " + word,), 0)
