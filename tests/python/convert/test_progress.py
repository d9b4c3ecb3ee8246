"""Progress on a terminal and off it."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tiny import words, write_recipe

from attnedit.convert import convert, read_recipe
from attnedit.convert import progress as module
from attnedit.convert.progress import Progress


def test_lines_off_a_terminal_tell_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(module, "LINE_EVERY_SECONDS", 2.0)
    with Progress().phase("layer-wise", [3, 5]) as on_step:
        for layer in (3, 5):
            for step in range(1, 5):
                on_step(layer, step, 4, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "layer-wise layer 3: step 2/4, loss 0.5000, 1.0 steps/s, 6 s left"
    assert lines[-1] == "layer-wise layer 5: step 4/4, loss 0.5000, 1.0 steps/s, 0 s left"


def test_what_is_counted_has_its_unit_and_no_loss(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 100, 20))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with Progress().count("tasks", "tokens") as on_count:
        on_count(100, 1000)
        on_count(500, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "tasks: token 100/1000", "tasks: token 500/1000, 20.0 tokens/s, 25 s left",
    ]  # fmt: skip


def test_a_bar_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress.phase("model-wise") as on_step:
        for step in range(1, 4):
            on_step(0, step, 4, 0.25)
    shown = progress.console.file.getvalue()  # type: ignore[attr-defined]
    assert "loss 0.2500" in shown and "steps/s" in shown


def test_warnings_are_told_quietly_too(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(quiet=True)
    progress.say("progress")
    progress.warn("no use")
    assert capsys.readouterr().err == "warning: no use\n"


class Said(Exception):
    pass


class UntilDocuments(Progress):
    def say(self, line: str) -> None:
        if "held out" in line:
            raise Said(line)


@pytest.mark.parametrize(("separator", "said"), [(None, "1 document held out"), ("\n\n", "3 documents held out")])
def test_one_document_is_told_as_one(tmp_path: Path, separator: str | None, said: str) -> None:
    (tmp_path / "heldout.txt").write_text(words(3, 5))
    heldout = {"files": ["heldout.txt"]} | ({} if separator is None else {"separator": separator})
    data = {"train": ["corpus.txt"], "heldout": [heldout], "sequence_length": 32}
    with pytest.raises(Said, match=f"rows of 32 tokens, {said}$"):
        convert(read_recipe(write_recipe(tmp_path, data=data)), UntilDocuments(quiet=True))
