"""The command as people call it, in a process of its own."""

import subprocess
import sys

ATTNEDIT = [sys.executable, "-c", "from attnedit.cli import main; main()"]


def attnedit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ATTNEDIT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One line that says so, and no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("attnedit: ")]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert "Traceback" not in done.stderr
