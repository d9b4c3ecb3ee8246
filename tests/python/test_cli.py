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
        (MemoryError(), 2, "attnedit: the system gives no more memory"),
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


def test_the_table_leaves_out_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(FileNotFoundError, match=r"report\.json is missing"):
        cli.table([tmp_path / "text"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.json").write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*text is no finished run"), pytest.raises(ValueError):
        cli.table([tmp_path / "text", tmp_path / "run"])
