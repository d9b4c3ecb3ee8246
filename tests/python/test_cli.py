"""How the command ends: one line and an exit code."""

import errno

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
