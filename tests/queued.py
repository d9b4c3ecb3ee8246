"""Work on streams: a queue that stays busy for a while, and programs in processes of their own."""

import os
import subprocess
import sys

import numpy as np

from attnedit import _core

F32 = np.dtype(np.float32)


def in_process_with(code: str, **environment: str) -> str:
    """The output of a new process: what the environment says is read once."""
    head = "import os, sys, time\nimport numpy as np\nfrom attnedit import _core, runtime\nF32 = np.dtype('float32')\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def slow_fill(x: np.ndarray, value: float) -> None:
    """Keeps the stream busy; the last write tells when it is over."""
    for _ in range(200):
        _core.fill(x, value - 1)
    _core.fill(x, value)
