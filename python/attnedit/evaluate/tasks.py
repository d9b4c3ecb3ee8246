"""Tasks that people recognise, as tokens: files of questions, and long contexts made of a text."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attnedit.checked import Length, checked, shown
from attnedit.data import Tokenizer
from attnedit.evaluate.decode_speed import CONTEXTS
from attnedit.evaluate.loglikelihood import Request, encode_pairs
from attnedit.evaluate.long_context import ITEMS, needle, repeat_copy, text_tokens
from attnedit.evaluate.task_files import Question, UnknownLayout, read_questions

Kind = Literal["multiple_choice", "last_word", "copy"]
# What a task asks for, by how its name begins, as papers sort them: averages over all hide what a narrow latent loses.
GROUPS = {
    "knowledge": "c?mmlu|ceval|triviaqa",
    "commonsense": "arc|boolq|copa|hellaswag|lambada|openbookqa|piqa|siqa|winogrande",
    "long_context": r"(needle|repeat_copy)_\d+",
}
MADE = ("needle", "repeat_copy")


@dataclass(frozen=True)
class Asked:
    limit: Length | None
    sequence_length: Length | None
    seed: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Item:
    requests: tuple[Request, ...]  # one for each choice
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Task:
    name: str
    kind: Kind
    items: tuple[Item, ...]

    @property
    def group(self) -> str:
        name = self.name.lower()
        return next((group for group, begin in GROUPS.items() if re.match(f"({begin})(?![a-z])", name)), "other")


def read_tasks(
    tasks: Sequence[str | Path], tokenizer: Tokenizer, longest: int, limit: int | None = None,
    sequence_length: int | None = None, seed: int = 0,
) -> list[Task]:  # fmt: skip
    """The first `limit` items of every task; `longest` is the context that the models have.

    A task is `[NAME=]FILE`, .jsonl or .json in one of task_files' layouts, or a folder of such files, of which those in
    other layouts are left out with a warning. `needle=TEXT` and `repeat_copy=TEXT` are made of a text file, 32 items of
    each length from 512 tokens to sequence_length or the models' context; the same seed makes the same items.
    Raises OSError and ValueError in one line, naming file and line.
    """
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise ValueError(f"[tasks] tasks must be a list of files and folders, got {shown(tasks)}")
    checked(Asked, {"limit": limit, "sequence_length": sequence_length, "seed": seed}, "[tasks] ")
    if sequence_length is not None and sequence_length > longest:
        raise ValueError(f"[tasks] sequence_length must be at most the models' {longest}, got {sequence_length}")
    most = longest if sequence_length is None else sequence_length
    lengths = [length for length in CONTEXTS if length <= most] or [most]
    found: dict[str, Task] = {}
    for asked in tasks:
        for task in _read(asked, tokenizer, longest, limit, lengths, seed):
            if task.name in found:
                raise ValueError(f"[tasks] every task must have its own name, got {task.name} twice")
            found[task.name] = task
    if not found:
        raise ValueError("[tasks] there must be a task, got none")
    return list(found.values())


def _read(
    asked: str | Path, tokenizer: Tokenizer, longest: int, limit: int | None, lengths: list[int], seed: int
) -> Iterator[Task]:
    name, path = _named(asked)
    if name in MADE:
        yield from _made(name, path, tokenizer, lengths, min(limit or ITEMS, ITEMS), seed)
    elif path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in (".jsonl", ".json"))
        if not files:
            raise ValueError(f"[tasks] {path} must hold a .jsonl or .json file, got none")
        for file in files:
            try:
                questions = read_questions(file, limit)
            except UnknownLayout as error:
                warnings.warn(f"left out: {error}", stacklevel=4)
                continue
            yield _task(file.stem, questions, tokenizer, longest)
    else:
        yield _task(name, read_questions(path, limit), tokenizer, longest)


def _named(asked: str | Path) -> tuple[str, Path]:
    if not isinstance(asked, str | Path):
        raise ValueError(f"[tasks] a task must be a file, a folder, or NAME=FILE, got {shown(asked)}")
    path = Path(asked).expanduser()
    if path.exists():
        return path.stem, path
    name, equals, rest = str(asked).partition("=")
    path = Path(rest).expanduser()
    if not equals or not name:
        raise FileNotFoundError(f"[tasks] {asked} must be a file, a folder, or NAME=FILE")
    if not path.is_file():
        raise FileNotFoundError(f"[tasks] {name}: {path} must be a file")
    return name, path


def _made(name: str, path: Path, tokenizer: Tokenizer, lengths: list[int], items: int, seed: int) -> Iterator[Task]:
    text = text_tokens(path, tokenizer)
    if len(text) < lengths[-1]:  # repeated it would be another task: the model has read it all before
        raise ValueError(
            f"[tasks] {name}: {path} must have at least {lengths[-1]} tokens, as the longest item, got {len(text)}; "
            "a longer text, or a smaller sequence_length"
        )
    for length in lengths:
        if name == "needle":
            yield _task(f"needle_{length}", needle(text, tokenizer, length, items, seed), tokenizer, length)
        else:
            copies = repeat_copy(text, tokenizer, length, items, seed)
            yield Task(f"repeat_copy_{length}", "copy", tuple(Item((copy,), ("",), 0) for copy in copies))


def _task(name: str, questions: list[Question], tokenizer: Tokenizer, longest: int) -> Task:
    items, cut = [], 0
    for question in questions:
        requests = encode_pairs(tokenizer, [(question.context, choice) for choice in question.choices])
        for i, (choice, request) in enumerate(zip(question.choices, requests, strict=True)):
            if not len(request.continuation):
                raise ValueError(f"[tasks] {question.where}: {choice!r} must have a token of its own, got none")
            if len(request.continuation) > longest:
                raise ValueError(
                    f"[tasks] {question.where} must fit the models' context of {longest} tokens, "
                    f"{choice[:40]!r} alone has {len(request.continuation)}"
                )
            if len(request.inputs) > longest:  # loses its beginning, as with the harness
                kept = longest + 1 - len(request.continuation)
                requests[i] = Request(request.context[-kept:], request.continuation)
                cut += 1
        items.append(Item(tuple(requests), question.choices, question.gold))
    if cut:
        warnings.warn(
            f"[tasks] {name}: {cut:,} requests are longer than the models' context of {longest} tokens and lose their "
            "beginning",
            stacklevel=5,
        )
    return Task(name, "last_word" if len(questions[0].choices) == 1 else "multiple_choice", tuple(items))
