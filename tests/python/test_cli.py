"""How the command ends: one line and an exit code."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import ATTNEDIT
from tiny import EXPERTS, words, write_teacher

import attnedit as ae
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


ENTRY = """
import os, sys
class Press:  # the key, when this module is imported
    def find_spec(self, name, *_):
        if name == WHERE:
            os.kill(os.getpid(), NUMBER)
sys.meta_path.insert(0, Press())
sys.path.append(PYTHON)  # where the command is not installed
sys.argv = ["attnedit", "info", "nowhere"]
from attnedit_cli import main
main()
"""
SWALLOWED = """
import signal
from attnedit import cli
class Late:
    def __del__(self):
        signal.raise_signal(NUMBER)
def app(standalone_mode):
    if WHERE == "ignored":
        Late()
        return 0
    try:
        signal.raise_signal(NUMBER)
    except KeyboardInterrupt:
        raise ValueError("run must be some text")
cli.app = app
cli.main()
"""


def pressed(code: str, where: str, number: int, ignored: bool = False) -> tuple[int, str]:
    python = Path(__file__).parents[2] / "python"
    for name, value in {"WHERE": where, "NUMBER": int(number), "PYTHON": str(python)}.items():
        code = code.replace(name, repr(value))
    # A child inherits what is ignored, as Ctrl-C is by whatever a shell runs in the background.
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    finally:
        signal.signal(number, before)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_command_from_its_first_moment(number: int) -> None:
    stopped = (130, "attnedit: stopped; the same command continues\n")
    for where in ("attnedit", "numpy.linalg", "attnedit.cli"):
        assert pressed(ENTRY, where, number) == stopped, where
    assert pressed(SWALLOWED, "caught", number) == stopped
    assert pressed(SWALLOWED, "ignored", number) == (0, "")
    code, said = pressed(ENTRY, "attnedit.cli", number, ignored=True)
    assert code == 2 and "nowhere" in said


def attnedit(*arguments: object) -> list[str]:
    return [*ATTNEDIT, *map(str, arguments)]


def test_a_wrong_instruction_set_is_told_before_anything_is_read() -> None:
    wrong = os.environ | {"ATTNEDIT_ISA": "mmx"}
    done = subprocess.run(attnedit("info", "nowhere"), env=wrong, capture_output=True, text=True)
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


def test_info_tells_experts_and_the_type_of_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_teacher(tmp_path / "teacher", words(20, 0), moe=replace(EXPERTS, mlp_only_layers=(0,)))
    cli.info(ae.export(ae.load(folder), tmp_path / "half", "qwen3_moe", dtype="bfloat16"))
    told = capsys.readouterr().out
    assert "weights in bfloat16\n" in told and "experts 5, 2 a token, in 1 of 2 layers\n" in told


def test_a_run_is_told_from_a_model(tmp_path: Path) -> None:
    for path in ("run/provenance.json", "run/student/config.json", "begun/provenance.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    for name, said in (("run", f"give {tmp_path / 'run/student'}"), ("begun", "the convert command finishes it")):
        for verb in (("info",), ("generate", "--prompt", "a"), ("evaluate", "--decode", "--teacher", tmp_path)):
            done = subprocess.run(attnedit(*verb, tmp_path / name), capture_output=True, text=True)
            assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_pipe_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    folder = write_teacher(tmp_path / "teacher", words(20, 0))
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(attnedit("info", folder), stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
