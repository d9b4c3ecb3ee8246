"""What a process says to the runtime before it starts, when it forks, and when it ends."""

import os
import subprocess
import sys

import pytest
from queued import in_process_with


def test_blocking_mode_has_computed_when_the_call_returns() -> None:
    in_process_with(
        """
x = _core.empty((1_000_000,), F32)
for value in range(20):
    _core.fill(x, value)
    assert (x == value).all() and runtime.current_stream().query()
""",
        ATTNEDIT_LAUNCH_BLOCKING="1",
    )


def test_fork_raises_instead_of_hanging() -> None:
    out = in_process_with(
        """
x = _core.empty((10,), F32)
_core.fill(x, 1)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(20)
    refused = 0
    for call in (lambda: _core.fill(x, 2), runtime.synchronize, lambda: _core.empty((10,), F32), runtime.Stream):
        try:
            call()
        except RuntimeError as error:
            refused += "forked" in str(error)
    del x
    sys.exit(refused)  # a whole shutdown of the interpreter
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
runtime.synchronize()
assert (x == 1).all()
"""
    )
    assert out == "4"


def test_fork_before_the_first_stream_is_harmless() -> None:
    out = in_process_with(
        """
child = os.fork()
if child == 0:
    x = _core.empty((10,), F32)
    _core.fill(x, 2)
    runtime.synchronize()
    os._exit(int(x.sum()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert out == "20"


def test_work_is_over_before_the_interpreter_is() -> None:
    in_process_with(
        """
stream = runtime.Stream()
with runtime.stream(stream):
    x = _core.borrow(np.zeros(1_000_000, np.float32))
    for value in range(300):
        _core.fill(x, value)
"""
    )


def test_unknown_backend_is_refused_in_one_line() -> None:
    code = """
try:
    runtime.device_count()
except RuntimeError as error:
    print(error)
"""
    assert in_process_with(code, ATTNEDIT_BACKEND="tpu") == "[ATTNEDIT_BACKEND] must be cpu, got tpu"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "ATTNEDIT_ISA",
            "sse9",
            "instruction set  [ATTNEDIT_ISA] must be portable, avx2, avx512, avx512_bf16 or amx, got ",
        ),
        ("ATTNEDIT_BACKEND", "tpu", "backend          [ATTNEDIT_BACKEND] must be cpu, got "),
    ],
)
def test_show_config_tells_what_the_environment_asked_for_in_vain(variable: str, value: str, line: str) -> None:
    out = in_process_with("print(runtime.show_config())", **{variable: value}).splitlines()
    assert line + value in out and out[0].startswith("attnedit         ") and out[-1].startswith("threads          ")


@pytest.mark.parametrize(
    ("asked", "bad"),
    [
        ("abc", True),
        ("0", True),
        ("-2", True),
        ("77,x", True),
        ("4294967297", True),
        ("100000", True),
        ("2", False),
        (" 3,1", False),
        ("", False),
    ],
)
def test_a_number_of_threads_that_is_none_is_told_in_one_line(asked: str, bad: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from attnedit import runtime; print(runtime.get_num_threads())"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": asked},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [line for line in done.stderr.splitlines() if "OMP_NUM_THREADS must be" in line]
    assert len(ours) == bad and (not bad or f"got {asked!r}: every core is used" in ours[0])
    every = len(os.sched_getaffinity(0))
    assert int(done.stdout) == (every if bad or not asked else int(asked.split(",")[0]))
