"""Recipes as people write them, well and badly."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from attnedit.checked import checked, shown
from attnedit.convert import Recipe, read_recipe
from attnedit.convert.recipe import Data
from attnedit.data import Source
from attnedit.edit import MLA, GateSWA

GOOD: dict[str, Any] = {
    "teacher": "teacher", "target": {"attention": "mla", "kv_lora_rank": 12},
    "data": {"train": ["*.txt"]}, "run": "run",
}  # fmt: skip


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value) and "pydantic" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": ""}, "run must be some text without NUL, got ''"),
        ({"run": "a\0b"}, r"run must be some text without NUL, got 'a\x00b'"),
        ({"teacher": 3}, "teacher must be text, got 3"),
        ({"seed": "1"}, "seed must be a whole number, got '1'"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"memory_limit_gib": "8"}, "memory_limit_gib must be a number, got '8'"),
        ({"memory_limit_gib": 1e300}, "memory_limit_gib must be at most 1048576, got 1e+300"),
        ({"memory_limit_gib": 0}, "memory_limit_gib must be greater than 0, got 0"),
        ({"data": {"train": "a.txt"}}, "data.train must be a list, got 'a.txt'"),
        ({"data": {"train": []}}, "data.train must be at least 1 long, got []"),
        ({"data": {"train": ["a"], "separator": ""}}, "data.separator must be some text, got ''"),
        (
            {"data": {"train": ["a"], "sequence_lenght": 8}},
            "unknown key 'data.sequence_lenght'; the known ones are train",
        ),
        ({"x.y": 1}, "unknown key 'x.y'; the known ones are teacher, target, data, run"),
        ({"modelwise": {"learning_rate": "fast"}}, "modelwise.learning_rate must be a number or 'auto', got 'fast'"),
        ({"modelwise": {"recompute": 1}}, "modelwise.recompute must be true or false, got 1"),
        ({"modelwise": {"train": "some"}}, "modelwise.train must be 'attention', 'attention+norms' or 'all'"),
        ({"layerwise": {"tokens": 1e6}}, "layerwise.tokens must be a whole number, got 1000000.0"),
        ({"layerwise": None}, "layerwise must be a mapping of keys, got None"),
        ({"target": {"attention": "mla", "kv_lora_rank": "8"}}, "kv_lora_rank must be a whole number, got '8'"),
        ({"target": {"attention": "mla", "kv_lora_rank": 10**12}}, "kv_lora_rank must be at most 1048576"),
        ({"target": {"attention": ["mla"]}}, "target: attention must be one of mla, gate_swa, got ['mla']"),
        ({"target": "mla"}, "target: attention must be one of mla, gate_swa, got 'mla'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(tmp_path, yaml.safe_dump(GOOD | changes))


LINES = """teacher: teacher
target:
  attention: mla
  kv_lora_rank: 12
data:
  train:
    - a.txt
    - 3
  sequence_lenght: 8
layerwise: {tokens: 100}
modelwise: {tokens: many,
            temperature: 0}
run: run
seed: -1
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES, "recipe.yaml: line 9: unknown key 'data.sequence_lenght'"),
        (LINES, "line 8: data: text must be a path or a mapping with files, got 3"),
        (LINES, "line 11: modelwise.tokens must be a whole number, got 'many'"),
        ("seed: -1\n" + yaml.safe_dump(GOOD), "recipe.yaml: line 1: seed must be at least 0, got -1"),
        ("seed: -1\n" + "run: run", "recipe.yaml: teacher is missing; target is missing; data is missing"),
        ("\n" + LINES.replace("data:", "date:"), "recipe.yaml: line 6: unknown key 'date'"),
        ("modelwise:\n  tokens: 1\n  temperature: 0\n" + yaml.safe_dump(GOOD), "line 3: modelwise.temperature must be"),
        (yaml.safe_dump(GOOD | {"data": {}}), "recipe.yaml: line 1: data.train is missing"),
        (LINES.replace("12", "twelve"), "line 2: target: kv_lora_rank must be a whole number, got 'twelve'"),
        ("target: mla", "line 1: target: attention must be one of mla, gate_swa, got 'mla'"),
    ],
)
def test_the_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    told = refused(tmp_path, text)
    assert message in told, told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: 1", "line 1: a key must be text, got a list"),
        ("seed: 0\n? {a: b}\n: 1", "line 2: a key must be text, got a mapping"),
        ("seed: 0\n? !!str [a]\n: 1", "line 2: a key must be text, got a list"),
        ("data: {train: [a], 2001-01-01: b}", "line 1: a key must be text, got '2001-01-01'"),
        ("null: 1", "line 1: a key must be text, got 'null'"),
        ("seed: 0\nrun: 2001-99-99", "line 2: '2001-99-99' is no timestamp"),
        ('seed: !!int "abc"', "line 1: 'abc' is no int"),
        ('seed: !!int ""', "line 1: '' is no int"),
        ('\n\nseed: !!float "a"', "line 3: 'a' is no float"),
        ("data: !!map [{a: b}]", "expected a mapping node, but found sequence"),
        ("data: !!map text", "expected a mapping node, but found scalar"),
        ("data: !!set [a]", "expected a mapping node, but found sequence"),
        ("seed: !!bool 3", "line 1: '3' is no bool"),
        ("run: !!timestamp now", "line 1: 'now' is no timestamp"),
        ("seed: !!float 9" + ":59" * 500 + ".5", "line 1: '9:59:59:59"),
        ("seed: " + "1" * 5000, "line 1: '1111"),
        ("seed: 0x" + "f" * 5000, "line 1: '0xffff"),
        ("data: {train: [a], " + "k" * 900 + ": 1}", "line 1: unknown key 'data.kkkk"),
        ("seed: *" + "a" * 9000, "not YAML: found undefined alias 'aaaa"),
        ("'" + "k" * 900 + "': 1\n" + "k" * 900 + ": 2", "line 2: key 'kkkk"),
        ("layerwise:\n  learning_rate...: 1", "line 1: unknown key 'layerwise.learning_rate...'; the known ones are t"),
        ("layerwise: {tokens.x: 1}", "line 1: unknown key 'layerwise.tokens.x'; the known ones are tokens"),
        ("data: {train: [{files: [a], fields.x: b}]}", "line 1: data: unknown key 'fields.x'; the known ones are f"),
    ],
)
def test_what_yaml_cannot_make_of_a_word_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    told = refused(tmp_path, text)
    assert told.startswith(f"{tmp_path / 'recipe.yaml'}: ") and message in told and len(told) < 1000, told


def test_an_alias_is_read_but_no_bomb(tmp_path: Path) -> None:
    shared = yaml.safe_dump(GOOD) + "layerwise: &same {tokens: 5}\nmodelwise: *same\n"
    assert read(tmp_path, shared).modelwise.tokens == 5
    levels = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "recipe.yaml: not YAML: line 3: more than 16 aliases" in refused(tmp_path, "\n".join(levels))
    deep = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 9)]
    assert "unknown key 'a0'" in refused(tmp_path, "\n".join(deep))  # as large as 16 aliases can make it
    assert "recipe.yaml: what is written must not hold itself" in refused(tmp_path, "teacher: &a [*a]\n")


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    good = yaml.safe_dump(GOOD)
    assert "line 2: key 'seed' is written twice" in refused(tmp_path, "seed: 0\nseed: 1\n" + good)
    assert "key 'train' is written twice" in refused(tmp_path, good + "layerwise: {train: 1, train: 2}")
    assert "too deep" in refused(tmp_path, "a: " + "[" * 5000)
    assert "must hold keys such as teacher" in refused(tmp_path, "- 1")
    for path, got in ((tmp_path, "a folder"), (tmp_path / "no.yaml", "nothing")):
        with pytest.raises(OSError, match=f"must be a recipe, a YAML file, got {got}"):
            read_recipe(path)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    recipe = read(tmp_path, yaml.safe_dump(GOOD) + "modelwise: {learning_rate: 1e-4, tokens: 1_000_000}")
    assert recipe.modelwise.learning_rate == 1e-4 and recipe.modelwise.tokens == 1_000_000


@pytest.mark.parametrize(
    "target", [{"attention": "mla", "kv_lora_rank": 8, "layers": [0, 2]}, {"attention": "gate_swa", "full_layers": [1]}]
)
def test_a_resolved_recipe_is_the_same_recipe_elsewhere(tmp_path: Path, target: dict[str, Any]) -> None:
    recipe = read(tmp_path, yaml.safe_dump(GOOD | {"target": target}))
    assert isinstance(recipe.target, MLA | GateSWA)
    (tmp_path / "elsewhere").mkdir()
    assert read(tmp_path / "elsewhere", yaml.safe_dump(recipe.resolved())) == recipe
    assert recipe.run == str(tmp_path / "run") and recipe.data.train == [str(tmp_path / "*.txt")]


def test_a_resolved_recipe_keeps_its_sources(tmp_path: Path) -> None:
    train = ["a.txt", {"files": ["b/*.jsonl", "c"], "field": "body", "separator": "--"}]
    recipe = read(tmp_path, yaml.safe_dump(GOOD | {"data": {"train": train, "heldout": train}}))
    (tmp_path / "elsewhere").mkdir()
    assert read(tmp_path / "elsewhere", yaml.safe_dump(recipe.resolved())) == recipe
    files = [str(tmp_path / "b/*.jsonl"), str(tmp_path / "c")]
    assert recipe.data.heldout == [str(tmp_path / "a.txt"), Source(files, "body", "--")]


def test_brackets_in_a_folders_name_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]"
    folder.mkdir()
    (folder / "[1].txt").write_text("x")
    train = {"train": ["[1].txt", "*.txt"]}
    recipe = read(folder, yaml.safe_dump(GOOD | {"data": train}))
    assert recipe.data.train == [str(folder / "[1].txt"), str(tmp_path / "a[[]b]" / "*.txt")]


def test_numbers_that_python_does_not_write_are_told_in_a_line() -> None:
    with pytest.raises(ValueError, match=r"^\[x\] what is written must not have a number of thousands of digits$"):
        checked(Data, {"train": ["a"], "sequence_length": 10**5000}, "[x] ")
    assert shown([10**5000]) == "list with a number of thousands of digits"
