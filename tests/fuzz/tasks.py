"""evaluate/task_files.py: one .jsonl file, which is also read as .json."""

import json
from pathlib import Path

from fuzz.mutate import json_text as mutated

from attnedit.evaluate.task_files import read_questions

__all__ = ["mutated", "one_input", "seeds"]


def seeds() -> list[bytes]:
    records = [
        {"query": "Question: x?", "choices": ["a", "b"], "gold": 1},
        {"prompt": "x", "options": ["a", "b"], "input_label": 0},
        {"context": "a b", "continuation": "c"},
        {"text": "a b c"},
    ]
    return [json.dumps(record).encode() for record in records] + [json.dumps({"items": records[:1] * 2}).encode()]


def one_input(data: bytes, folder: Path) -> None:
    refused = []
    for suffix in (".jsonl", ".json"):
        path = folder / f"tasks{suffix}"
        path.write_bytes(data)
        try:
            for question in read_questions(path):
                assert all(choice.strip() for choice in question.choices) and 0 <= question.gold < len(question.choices)
        except ValueError as error:
            refused.append(error)
    for error in refused:
        assert "\n" not in str(error)
    if len(refused) == 2:
        raise refused[0]
