"""How the command ends: one line and an exit code."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnedit import cli


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "attnedit: stopped; the same command continues"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/state"),
            2,
            "attnedit: run/state: No space left on device",
        ),
        (MemoryError(), 2, "attnedit: MemoryError"),
        (ValueError("two\nlines"), 2, "attnedit: two lines"),
    ],
)
def test_errors_are_one_line(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(standalone_mode: bool) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == line + "\n"


def test_a_wrong_instruction_set_is_told_before_anything_is_read() -> None:
    command = [sys.executable, "-c", "from attnedit.cli import main; main()", "info", "nowhere"]
    done = subprocess.run(command, env=os.environ | {"ATTNEDIT_ISA": "mmx"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("attnedit: [ATTNEDIT_ISA] must be portable, avx2, ") and "got mmx" in done.stderr


def test_without_the_harness_its_adapter_says_so() -> None:
    """An error to catch for who imports it, one line for who runs it."""
    absent = "import runpy, sys; sys.modules['lm_eval'] = None\n"
    caught = "try:\n import attnedit.harness\nexcept ModuleNotFoundError as error:\n sys.exit(f'caught: {error}')"
    for code, begin in (
        (caught, "caught: "),
        ("runpy.run_module('attnedit.harness', run_name='__main__')", "attnedit: "),
    ):
        done = subprocess.run([sys.executable, "-c", absent + code], capture_output=True, text=True)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(f"{begin}lm-evaluation-harness is not installed (")
        assert line.endswith("pip install 'attnedit[eval]'")


def test_the_table_leaves_out_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(FileNotFoundError, match=r"report\.json is missing"):
        cli.table([tmp_path / "text"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*text is no finished run"), pytest.raises(ValueError):
        cli.table([tmp_path / "text", tmp_path / "run"])
