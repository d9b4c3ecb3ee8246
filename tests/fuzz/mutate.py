"""Mutations that keep an input's form, so that most of them pass the first parser and reach ours."""

import json
import random
from typing import Any

NUMBERS = [0, -1, 1, 2, 7, 2**20, 2**31 - 1, 2**32, 2**60, 2**63, 2**64 + 1, 10**400, 0.5, 1e-320, 1e300,
           float("nan"), float("inf"), -float("inf")]  # fmt: skip
TEXTS = ["", "x", "..", "../x.safetensors", "/etc/passwd", "\0", "\n", "\ud800", "\u2581", "x" * 3000, "default",
         "yarn", "llama3", "full_attention", "sliding_attention"]  # fmt: skip


def json_text(data: bytes, seed: int) -> bytes | None:
    """Another JSON text with one to three of its values changed; None where data is no JSON."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        value = _changed(value, rng)
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return None


def _changed(value: Any, rng: random.Random) -> Any:
    """value with something in it changed; containers are mostly walked into."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        rest = {k: v for k, v in value.items() if k != key}
        if kind < 0.08:
            return rest
        if kind < 0.16:
            return rest | {rng.choice(TEXTS): value[key]}
        if kind < 0.24:
            return value | {rng.choice(list(value)): value[key]}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return value[:at] + [value[at]] * rng.choice([2, 3, 40]) + value[at + 1 :]
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice([value + 1, value - 1, value * 2, -value, value * 2**40, str(value), [value]])
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(["", "\0", "a", value, "(x+x+)+y"]) + value[at + rng.randint(0, 1) :]
    return rng.choice([None, True, {}, [], {"type": "x"}, _deep(rng), rng.choice(NUMBERS), rng.choice(TEXTS)])


def _deep(rng: random.Random) -> Any:
    made: Any = 1
    for _ in range(rng.choice([5, 150, 900])):
        made = [made]
    return made
