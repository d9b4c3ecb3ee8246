"""What two models' answers to tasks are worth, side by side, by lm-evaluation-harness's definitions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from attnedit.data import Tokenizer
from attnedit.evaluate.compare import OnTokens
from attnedit.evaluate.loglikelihood import Likelihood, likelihoods
from attnedit.evaluate.tasks import GROUPS, Item, Task, read_tasks
from attnedit.models import Decoder
from attnedit.tensor import Array

# Of the items, for a standard error that has no formula; the harness's, and how many it draws by one seed.
RESAMPLES, BY_A_SEED = 100_000, 1000
DRAWN_AT_ONCE = 2**20  # items


@dataclass(frozen=True)
class Score:
    value: float
    stderr: float | None  # None where there is none


@dataclass(frozen=True)
class TaskComparison:
    """Scores by metric. The difference is student - teacher, with the standard error of the items' differences."""

    group: str
    items: int
    teacher: dict[str, Score]
    student: dict[str, Score]
    difference: dict[str, Score]


def evaluate_tasks(
    student: Decoder,
    teacher: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[str | Path],
    *,
    limit: int | None = None,
    sequence_length: int | None = None,
    seed: int = 0,
    on_tokens: OnTokens | None = None,
) -> dict[str, TaskComparison]:
    """Both models' scores on the same items, by task; `read_tasks` says what a task may be.

    Multiple choice: acc, the likeliest choice; acc_norm, the likeliest per character; acc_bytes, per byte. Last words:
    acc, whether greedy decoding writes them; perplexity. Repeat-copy: acc, the share of tokens copied. Standard errors
    are those of a mean; that of perplexity is bootstrapped, as the harness does. Everything is read and checked before
    a model computes; read_tasks says what is raised.
    """
    if student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(
            f"[tasks] student and teacher must share a vocabulary, got {student.config.vocab_size} "
            f"and {teacher.config.vocab_size}"
        )
    longest = min(model.config.rope.max_position_embeddings for model in (student, teacher))
    read = read_tasks(tasks, tokenizer, longest, limit, sequence_length, seed)
    requests = [request for task in read for item in task.items for request in item.requests]
    highest = max(int(max(each.context.max(), each.continuation.max())) for each in requests)
    if highest >= teacher.config.vocab_size:
        raise ValueError(
            f"[tasks] the tokenizer's tokens must be below the models' vocab_size {teacher.config.vocab_size}, "
            f"got {highest}"
        )
    answers = []
    for before, model in enumerate((teacher, student)):

        def count(done: int, total: int, before: int = before) -> None:
            if on_tokens is not None:
                on_tokens(before * total + done, 2 * total)

        answers.append(iter(likelihoods(model, requests, count)))
    compared = {}
    for task in read:
        each = [[[next(given) for _ in item.requests] for item in task.items] for given in answers]
        compared[task.name] = _compare(task, item_scores(task, each[0]), item_scores(task, each[1]))
    return compared


def item_scores(task: Task, answers: Sequence[Sequence[Likelihood]]) -> dict[str, Array]:
    """Every metric of every item, float64; answers: for every item those of its requests."""
    if task.kind == "multiple_choice":
        return _chosen(task.items, answers)
    alone = [each for (each,) in answers]
    if task.kind == "copy":
        return {"acc": np.array([each.hits / each.tokens for each in alone])}
    return {
        "acc": np.array([float(each.is_greedy) for each in alone]),
        "perplexity": np.array([each.logprob for each in alone]),
    }


def _chosen(items: Sequence[Item], answers: Sequence[Sequence[Likelihood]]) -> dict[str, Array]:
    """Whether the gold choice is the likeliest, also by length, unless all are equally long (letters, digits)."""
    lengths: dict[str, Callable[[str], int]] = {"acc": lambda text: 1}
    if any(len({len(choice) for choice in item.choices}) > 1 for item in items):
        lengths |= {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}

    def right(item: Item, given: Sequence[Likelihood], length: Callable[[str], int]) -> float:
        each = [
            answer.logprob / length(choice.removeprefix(" "))
            for answer, choice in zip(given, item.choices, strict=True)
        ]
        return float(each.index(max(each)) == item.gold)

    return {
        name: np.array([right(item, given, length) for item, given in zip(items, answers, strict=True)])
        for name, length in lengths.items()
    }


def _compare(task: Task, teacher: dict[str, Array], student: dict[str, Array]) -> TaskComparison:
    found = {
        name: (_perplexities if name == "perplexity" else _means)(teacher[name], student[name]) for name in teacher
    }
    theirs, ours, difference = ({name: scores[i] for name, scores in found.items()} for i in range(3))
    return TaskComparison(task.group, len(task.items), theirs, ours, difference)


def _means(teacher: Array, student: Array) -> list[Score]:
    """Of both and of their difference, with the sample's standard deviation (n - 1)."""
    values = [fmean(teacher), fmean(student)]
    root = math.sqrt(len(teacher))
    errors = [
        float(each.std(ddof=1)) / root if len(each) > 1 else None for each in (teacher, student, student - teacher)
    ]
    return [Score(*each) for each in zip([*values, values[1] - values[0]], errors, strict=True)]


def _perplexities(teacher: Array, student: Array) -> list[Score]:
    """exp(- mean log-likelihood); the difference's error is of both models on the same resampled items."""
    both, parts = np.stack([teacher, student]), []
    for seed in range(RESAMPLES // BY_A_SEED):
        # The draws of Python's random.Random(seed).choices, which the harness calls, so the errors are the same.
        # Where scores spread over powers of ten, as those of small models do, other draws would give other errors.
        draws, many = np.random.RandomState([seed]), max(1, DRAWN_AT_ONCE // len(teacher))
        for begin in range(0, BY_A_SEED, many):
            drawn = draws.random_sample((min(many, BY_A_SEED - begin), len(teacher))) * len(teacher)
            places = drawn.astype(np.intp)
            parts.append([each.take(places).mean(-1) for each in both])
    with np.errstate(over="ignore", invalid="ignore"):  # a model may have no idea of long answers
        values, resampled = np.exp(-both.mean(-1)), np.exp(-np.concatenate(parts, 1))
        values, resampled = (np.concatenate([each, each[1:] - each[:1]]) for each in (values, resampled))
        errors = resampled.std(1, ddof=1)
    told = [float(error) if len(teacher) > 1 and math.isfinite(error) else None for error in errors]
    return [Score(float(value), error) for value, error in zip(values, told, strict=True)]


def summary(compared: Mapping[str, TaskComparison]) -> dict[str, Any]:
    """For JSON, where a number that is not finite is null.

    {"tasks": {name: {"group", "items", "teacher": {"acc", "acc_stderr", ...}, "student", "difference"}},
    "groups": {group: {"teacher": mean acc of its tasks, "student", "difference"}}}
    """

    def flat(scores: Mapping[str, Score]) -> dict[str, float | None]:
        pairs = ((name, score.value, score.stderr) for name, score in scores.items())
        both = ({name: value, f"{name}_stderr": stderr} for name, value, stderr in pairs)
        return {
            key: value if value is None or math.isfinite(value) else None
            for each in both
            for key, value in each.items()
        }

    sides = ("teacher", "student", "difference")
    tasks = {
        name: {"group": task.group, "items": task.items} | {side: flat(getattr(task, side)) for side in sides}
        for name, task in compared.items()
    }
    groups = {
        group: {side: fmean(getattr(task, side)["acc"].value for task in members) for side in sides}
        for group in (*GROUPS, "other")
        if (members := [task for task in compared.values() if task.group == group])
    }
    return {"tasks": tasks, "groups": groups}


def task_table(compared: Mapping[str, TaskComparison]) -> str:
    """A line for every metric, group by group, each with its mean: never one over all."""
    lines = ["| group | task | items | metric | teacher | student | difference |", "|---|---|---|---|---|---|---|"]
    for group, mean in summary(compared)["groups"].items():
        members = {name: task for name, task in compared.items() if task.group == group}
        for name, task in members.items():
            for metric in task.teacher:
                if metric == "acc_bytes":
                    continue  # it says what acc_norm says, but for letters beyond ASCII
                cells = [_cell(task.teacher[metric]), _cell(task.student[metric])]
                cells.append(_cell(task.difference[metric], "+"))
                lines.append(f"| {group} | {name} | {task.items:,} | {metric} | {' | '.join(cells)} |")
        if len(members) > 1:
            means = f"{mean['teacher']:.4f} | {mean['student']:.4f} | {mean['difference']:+.4f}"
            lines.append(f"| {group} | mean of {len(members)} tasks | | acc | {means} |")
    return "\n".join(lines)


def _cell(score: Score, sign: str = "") -> str:
    value, error = (".4f" if abs(number or 0) < 1e5 else ".3e" for number in (score.value, score.stderr))
    return f"{score.value:{sign}{value}}" + ("" if score.stderr is None else f" ± {score.stderr:{error}}")
