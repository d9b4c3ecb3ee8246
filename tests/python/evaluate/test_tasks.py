"""Task files, made tasks, and scores counted by hand."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit import cli
from attnedit.data import Tokenizer
from attnedit.evaluate import task_scores
from attnedit.evaluate.loglikelihood import Likelihood, Request
from attnedit.evaluate.long_context import needle, repeat_copy, text_tokens
from attnedit.evaluate.task_files import read_questions
from attnedit.evaluate.task_scores import evaluate_tasks, item_scores, summary, task_table
from attnedit.evaluate.tasks import Item, Task, read_tasks

ARC = {"query": "Question: What falls?", "choices": ["rain", "a stone tree"], "gold": 0}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def test_every_layout(tmp_path: Path) -> None:
    (arc,) = read_questions(write(tmp_path / "arc.jsonl", ARC))
    assert (arc.context, arc.choices, arc.gold) == ("Question: What falls?\nAnswer:", (" rain", " a stone tree"), 0)
    mmlu = {"samples": [{"prompt": "1 + 1\n(A) 2\nAnswer:", "options": [" A", " B"], "input_label": 1, "i": 7}]}
    (mmlu_item,) = read_questions(write(tmp_path / "mmlu.json", mmlu))
    assert (mmlu_item.context, mmlu_item.choices, mmlu_item.gold) == ("1 + 1\n(A) 2\nAnswer:", (" A", " B"), 1)
    (copied,) = read_questions(write(tmp_path / "copy.jsonl", {"context": "say it\nA:", "continuation": "it"}))
    assert (copied.context, copied.choices) == ("say it\nA:", (" it",))
    told = write(tmp_path / "lambada.jsonl", "", {"text": 'a "stone under\nthe tree'}, {"text": "so"})
    last, alone = read_questions(told)
    assert (last.context, last.choices) == ('a "stone under\nthe', (" tree",))
    assert (alone.context, alone.choices) == ("", (" so",))
    assert len(read_questions(told, limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.jsonl", [], "a.jsonl must have at least one item, got none"),
        ("a.jsonl", [ARC, '{"query": '], "a.jsonl line 2 must be JSON: "),
        ("a.jsonl", [ARC, "[1]"], "a.jsonl line 2 must be a JSON object, got list"),
        ("a.jsonl", [ARC, {"query": "x", "choices": ["a", "b"]}], "line 2 must have the key 'gold' as the first"),
        ("a.jsonl", [{"question": "x", "answer": "y"}], "line 1 must have the keys of a known layout (query, choices"),
        ("a.jsonl", [ARC | {"gold": 2}], "line 1: gold must be from 0 to 1, got 2"),
        ("a.jsonl", [ARC | {"gold": "A"}], "line 1: gold must be from 0 to 1, got 'A'"),
        ("a.jsonl", [ARC | {"choices": ["rain"]}], "line 1: choices must be a list of at least 2 texts, got ['rain']"),
        ("a.jsonl", [ARC | {"choices": ["rain", " "]}], "line 1: choices must be text that is not empty, got ' '"),
        ("a.jsonl", [ARC | {"query": 3}], "line 1: query must be text, got int"),
        ("a.jsonl", [{"text": "so it ends "}], "line 1: text must end with the word that is asked for"),
        ("a.jsonl", [{"text": "\n"}], r"line 1: text must end with the word that is asked for, got '\n'"),
        ("a.jsonl", [{"text": "a b \t"}], "line 1: text must end with the word that is asked for"),
        ("a.jsonl", [ARC, '{"text": "a\tb"}'], "a.jsonl line 2 must be JSON: Invalid control character at column 12"),
        (
            "a.jsonl",
            ['{"n": ' + "1" * 5000 + "}"],
            "line 1 must be JSON: a whole number in it has more than 4300 digits",
        ),
        ("a.json", ["{"], "a.json must be JSON: Expecting property name enclosed in double quotes at column 3"),
        (
            "a.json",
            ['{"a": 1,', " b}"],
            "a.json must be JSON: Expecting property name enclosed in double quotes at line 2",
        ),
        ("a.json", [{"a": [], "b": []}], "a.json must be a list of items, or an object that holds one list"),
        ("a.json", [[3]], "a.json item 1 must be an object, got int"),
        ("a.txt", [ARC], "a.txt must end in .jsonl or .json"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, name: str, lines: list[object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read_questions(write(tmp_path / name, *lines))
    assert str(raised.value).startswith(f"[tasks] {tmp_path}") and "\n" not in str(raised.value)


def answered(*logprobs: float) -> list[Likelihood]:
    return [Likelihood(logprob, 2, 1) for logprob in logprobs]


def test_scores_counted_by_hand() -> None:
    request = Request(np.zeros(1, np.int32), np.zeros(2, np.int32))
    # 2 and 12 letters; 4 letters, of which two take two bytes, and 5.
    short, wide = (" ab", " abcdefghijkl"), (" äöab", " abcde")
    items = tuple(
        Item((request,) * 2, choices, gold) for choices, gold in ((short, 0), (short, 1), (wide, 0), (wide, 1))
    )
    answers = [answered(-4, -12), answered(-4, -12), answered(-4.4, -5), answered(-4.4, -5)]
    scores = item_scores(Task("arc", "multiple_choice", items), answers)
    assert scores["acc"].tolist() == [1, 0, 1, 0]
    assert scores["acc_norm"].tolist() == [0, 1, 0, 1]  # -2 and -1; -1.1 and -1
    assert scores["acc_bytes"].tolist() == [0, 1, 1, 0]  # -4.4 / 6 and -1
    letters = Task("mmlu", "multiple_choice", (Item((request,) * 2, (" A", " B"), 1),))
    assert {name: each.tolist() for name, each in item_scores(letters, [answered(-2, -1)]).items()} == {"acc": [1]}
    last = item_scores(Task("lambada", "last_word", items[:1]), [[Likelihood(-3, 2, 2)]])
    assert last["acc"].tolist() == [1] and last["perplexity"].tolist() == [-3]
    assert item_scores(Task("repeat_copy", "copy", items[:1]), answers=[[Likelihood(-3, 4, 3)]])["acc"].tolist() == [
        0.75
    ]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("mmlu_gemma_subset", "knowledge"), ("CMMLU", "knowledge"), ("arc_easy", "commonsense"), ("arcade", "other"),
        ("lambada_test", "commonsense"), ("needle_512", "long_context"), ("repeat_copy_logic", "other"),
    ],
)  # fmt: skip
def test_groups_by_name(name: str, group: str) -> None:
    assert Task(name, "copy", ()).group == group


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A student and its teacher of a small language, and 64 tokens of context."""
    teacher = write_teacher(tmp_path / "teacher", words(20, 0))
    edited = ae.edit(ae.load(teacher), ae.MLA(12, qk_rope_head_dim=8, init="random"))
    return ae.export(edited, tmp_path / "student", source=teacher), teacher


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(3)
    some = words(1, 0).split()
    items = [
        {"query": " ".join(rng.choice(some, 6)), "choices": [*rng.choice(some, 2)], "gold": int(rng.integers(2))}
        for _ in range(12)
    ]
    arc = write(tmp_path / "arc_tiny.jsonl", *items)
    last = write(tmp_path / "last.jsonl", *({"text": " ".join(rng.choice(some, 7))} for _ in range(5)))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(words(60, 5))
    return [str(arc), f"lambada={last}", f"repeat_copy={corpus}"]


def test_both_models_side_by_side(folders: tuple[Path, Path], asked: list[str]) -> None:
    student, teacher = (ae.load(folder) for folder in folders)
    tokenizer = Tokenizer(folders[1])
    counted: list[tuple[int, int]] = []
    compared = ae.evaluate_tasks(student, teacher, tokenizer, asked, on_tokens=lambda *n: counted.append(n))
    assert list(compared) == ["arc_tiny", "lambada", "repeat_copy_64"]
    assert [(task.group, task.items) for task in compared.values()] == [
        ("commonsense", 12), ("commonsense", 5), ("long_context", 32),
    ]  # fmt: skip
    assert counted[-1][0] == counted[-1][1] and sorted(counted) == counted
    # By itself, with the roles exchanged: the same items, the difference turned round.
    turned = evaluate_tasks(teacher, student, tokenizer, asked)
    for name, task in compared.items():
        assert task.teacher == turned[name].student and task.student == turned[name].teacher
        assert task.difference["acc"].value == pytest.approx(-turned[name].difference["acc"].value)
        assert task.difference["acc"].value == pytest.approx(task.student["acc"].value - task.teacher["acc"].value)
    # A share p of n: the standard error of the mean is sqrt(p (1 - p) / (n - 1)).
    p, n = compared["arc_tiny"].teacher["acc"].value, 12
    assert 0 < p < 1 and compared["arc_tiny"].teacher["acc"].stderr == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert evaluate_tasks(teacher, teacher, tokenizer, asked)["arc_tiny"].difference["acc"].stderr == 0
    # Of many items with little spread it is exp(-mean) times the mean's; of others there is no formula.
    spread = np.random.default_rng(0).normal(-2, 0.3, (2, 400))
    errors = [score.stderr for score in task_scores._perplexities(spread[0], spread[0] + 0.01 * spread[1])]
    assert errors[0] == pytest.approx(math.exp(2) * 0.3 / 20, rel=0.1) and errors[2] < errors[0] / 20
    alone = evaluate_tasks(teacher, teacher, tokenizer, asked[:1], limit=1)["arc_tiny"]
    assert alone.items == 1 and alone.teacher["acc"].stderr is None
    table = task_table(compared).splitlines()
    means = summary(compared)["groups"]
    assert means["commonsense"]["teacher"] == pytest.approx((p + compared["lambada"].teacher["acc"].value) / 2)
    assert [line.split(" | ")[1] for line in table[2:]] == [
        *["arc_tiny"] * (len(compared["arc_tiny"].teacher) - 1), "lambada", "lambada", "mean of 2 tasks",
        "repeat_copy_64",
    ]  # fmt: skip


def test_a_hopeless_perplexity_is_no_error(
    folders: tuple[Path, Path], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ae.load(folders[1])
    monkeypatch.setattr(task_scores, "likelihoods", lambda model, requests, _: [Likelihood(-800, 1, 0)] * len(requests))
    compared = evaluate_tasks(teacher, teacher, Tokenizer(folders[1]), asked[1:2])
    assert "| perplexity | inf | inf | +nan |" in task_table(compared)
    found = json.loads(json.dumps(summary(compared), allow_nan=False))
    assert found["tasks"]["lambada"]["student"] == {
        "acc": 0, "acc_stderr": 0, "perplexity": None, "perplexity_stderr": None,
    }  # fmt: skip


def test_the_command(
    folders: tuple[Path, Path], asked: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = map(str, folders)
    # A folder: the task is named after its file, and what is no task is left out.
    folder = Path(asked[0]).parent / "evals"
    folder.mkdir()
    Path(asked[0]).rename(folder / "arc_tiny.jsonl")
    write(folder / "gsm.jsonl", {"question": "x", "answer": "y"})
    given = [part for each in [str(folder), *asked[1:]] for part in ("--tasks", each)]
    monkeypatch.setattr(
        cli.sys, "argv", ["attnedit", "evaluate", student, "--teacher", teacher, *given, "--limit", "4"]
    )
    with (
        pytest.warns(UserWarning, match=r"left out: .*gsm\.jsonl line 1 must have the keys"),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    assert ended.value.code == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert {name: task["items"] for name, task in found["tasks"].items()} == {
        "arc_tiny": 4, "lambada": 4, "repeat_copy_64": 4,
    }  # fmt: skip
    assert set(found["tasks"]["arc_tiny"]["student"]) >= {"acc", "acc_stderr"}
    assert set(found["groups"]) == {"commonsense", "long_context"}
    assert "| commonsense | arc_tiny | 4 | acc |" in printed.err and "tokens/s" in printed.err


def test_what_is_too_long_loses_its_beginning(folders: tuple[Path, Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer(folders[1])
    path = write(tmp_path / "long.jsonl", {"text": words(3, 0)})
    with pytest.warns(UserWarning, match="long: 1 requests are longer than the models' context of 64 tokens"):
        (task,) = read_tasks([path], tokenizer, 64)
    ((request,),) = (item.requests for item in task.items)
    (whole,) = tokenizer.encode_documents([words(3, 0)])
    assert np.array_equal(np.concatenate([request.context, request.continuation]), whole[-65:])


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("absent.jsonl", "[tasks] absent.jsonl must be a file, a folder, or NAME=FILE"),
        ("arc=absent.jsonl", "[tasks] arc: absent.jsonl must be a file"),
        ("needle={corpus}", "[tasks] needle_64 item 1 needs "),
        ("needle={short}", "short.txt must have at least 64 tokens, as the longest item, got "),
        ("repeat_copy={short}", "short.txt must have at least 64 tokens, as the longest item, got "),
        ("{long}", "long.jsonl line 2 must fit the models' context of 64 tokens, "),
        ("{empty}", "empty must hold a .jsonl or .json file, got none"),
    ],
)
def test_bad_tasks_are_one_line(
    folders: tuple[Path, Path], asked: list[str], tmp_path: Path, task: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    long = write(tmp_path / "long.jsonl", {"text": "the tree"}, {"text": "the " + "tree" * 90})
    (tmp_path / "short.txt").write_text("the tree runs")
    names = {name: tmp_path / f"{name}.txt" for name in ("corpus", "short")} | {
        "long": long, "empty": tmp_path / "empty",
    }  # fmt: skip
    tokenizer = Tokenizer(folders[1])
    with pytest.raises((ValueError, OSError), match=re.escape(said)) as raised:
        read_tasks([task.format(**names)], tokenizer, 64)
    assert "\n" not in str(raised.value)


def test_names_and_limits(folders: tuple[Path, Path], asked: list[str]) -> None:
    tokenizer = Tokenizer(folders[1])
    with pytest.raises(ValueError, match="every task must have its own name, got arc_tiny twice"):
        read_tasks([asked[0], asked[0]], tokenizer, 64)
    for tasks in (asked[0], None):
        with pytest.raises(ValueError, match="tasks must be a list of files and folders, got"):
            read_tasks(tasks, tokenizer, 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"limit must be at least 1, got 0; seed must be a whole number, got 1.5"):
        read_tasks(asked, tokenizer, 64, limit=0, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sequence_length must be at most the models' 64, got 65"):
        read_tasks(asked, tokenizer, 64, sequence_length=65)
    assert [task.name for task in read_tasks(asked[2:], tokenizer, 2000)] == ["repeat_copy_512", "repeat_copy_1024"]
    assert [task.name for task in read_tasks(asked[2:], tokenizer, 64, sequence_length=32)] == ["repeat_copy_32"]
    other = random_decoder(tiny_config())
    with pytest.raises(ValueError, match="tokenizer's tokens must be below the models' vocab_size 37, got "):
        evaluate_tasks(other, other, tokenizer, asked)


@pytest.mark.parametrize("length", [300, 1500])
def test_needles(folders: tuple[Path, Path], asked: list[str], tmp_path: Path, length: int) -> None:
    tokenizer = Tokenizer(folders[1])
    text = text_tokens(tmp_path / "corpus.txt", tokenizer)
    made = needle(text, tokenizer, length, 8, seed=0)
    assert made == needle(text, tokenizer, length, 8, seed=0) != needle(text, tokenizer, length, 8, seed=1)
    depths = []
    for question in made:
        told = dict(re.findall(r"^The magic number of the (\w+) is (\d)\.$", question.context, re.M))
        thing = re.search(r"The magic number of the (\w+) is$", question.context)
        assert thing and len(told) == 4 and len(set(told.values())) == 4
        assert question.choices[question.gold] == f" {told[thing[1]]}"
        tokens = len(tokenizer.encode_documents([question.context + question.choices[0]])[0]) - 1
        assert length - 8 <= tokens <= length
        depths.append(question.context.index(f"{thing[1]} is {told[thing[1]]}.") / len(question.context))
    assert min(depths) < 0.4 and max(depths) > 0.6


def test_copies(folders: tuple[Path, Path], asked: list[str], tmp_path: Path) -> None:
    tokenizer = Tokenizer(folders[1])
    text = text_tokens(tmp_path / "corpus.txt", tokenizer)
    assert text[0] != 0  # what the tokenizer puts in front is no part of the text
    for request in repeat_copy(text, tokenizer, 51, 4, seed=0):
        whole = np.concatenate([request.context, request.continuation])
        assert len(whole) == 51 and whole[0] == 0 and set(whole[1:]) <= set(text)
        np.testing.assert_array_equal(whole[1:26], whole[26:])
        assert len(request.continuation) == 24
    with pytest.raises(ValueError, match="needs a context of at least 5 tokens, got 4"):
        repeat_copy(text, tokenizer, 4, 1, seed=0)
