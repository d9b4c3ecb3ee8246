"""The runtime as Python sees it: names, errors, lifetimes. Its order and its pool are proved in C++."""

import gc
import mmap
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from attnedit import _core, runtime

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


@pytest.fixture(autouse=True)
def clean_pool() -> Iterator[None]:
    gc.collect()
    runtime.synchronize()
    runtime.empty_cache()
    yield
    runtime.set_memory_limit(None)
    runtime.synchronize()


def slow_fill(x: np.ndarray, value: float) -> None:
    """Keeps the stream busy; the last write tells when it is over."""
    for _ in range(200):
        _core.fill(x, value - 1)
    _core.fill(x, value)


def test_device_says_that_it_is_simulated() -> None:
    assert runtime.device_count() >= 1
    assert runtime.is_simulated()
    assert runtime.get_device_name().startswith("simulated accelerator 0 (")
    assert runtime.Device(0).name == runtime.get_device_name(0)


def test_unknown_devices_are_refused() -> None:
    count = runtime.device_count()
    with pytest.raises(ValueError, match=rf"\[set_device\] device must be from 0 to {count - 1}, got {count}"):
        runtime.set_device(count)
    with pytest.raises(ValueError, match="index must be from 0"):
        runtime.Device(-1)
    with pytest.raises(ValueError, match="device must be from 0"):
        runtime.memory_allocated(count)


def test_guards_restore_device_and_stream_even_after_an_error() -> None:
    out = in_process_with(
        """
own = runtime.current_stream()
other = runtime.Stream(1)
try:
    with runtime.stream(other):
        assert runtime.current_device() == 1 and runtime.current_stream() == other
        with runtime.device(0):
            assert runtime.current_stream() == own
        raise KeyError
except KeyError:
    pass
assert runtime.current_device() == 0 and runtime.current_stream() == own
with runtime.device(runtime.Device(1)):
    assert runtime.current_stream() != other  # outside its block it is not device 1's stream any more
    x = _core.empty((100,), F32)
    assert runtime.memory_allocated() == 512 and runtime.memory_allocated(0) == 0
    _core.fill(x, 3)
runtime.synchronize(1)
assert runtime.current_device() == 0 and (x == 3).all()
print(runtime.get_device_name(1)[:23])
""",
        ATTNEDIT_DEVICE_COUNT="2",
    )
    assert out == "simulated accelerator 1"


def test_streams_are_ordered_by_events() -> None:
    x, y = _core.empty((100_000,), F32), _core.empty((100_000,), F32)
    stream = runtime.Stream()
    assert stream.device == runtime.Device(runtime.current_device())
    slow_fill(x, 3)
    stream.wait_stream(runtime.current_stream())
    with runtime.stream(stream):
        _core.add(x, x, y)
        done = stream.record_event()
    runtime.record_stream(x, stream)
    runtime.record_stream(y[10:].reshape(9, -1), stream)
    done.wait()  # the stream of this thread waits, this thread does not
    done.synchronize()
    assert done.query() and (y == 6).all()
    runtime.synchronize()
    assert stream.query()


def test_event_measures_time() -> None:
    x = _core.empty((100_000,), F32)
    start, end = runtime.Event(), runtime.Event()
    with pytest.raises(RuntimeError, match="must have been recorded"):
        start.elapsed_time(end)
    start.record()
    slow_fill(x, 1)
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) > 0


def test_threads_have_their_own_stream_and_device() -> None:
    seen = []
    mine = runtime.current_stream()
    thread = threading.Thread(target=lambda: seen.append(runtime.current_stream()))
    thread.start()
    thread.join()
    assert seen[0] != mine and runtime.current_stream() == mine
    seen[0].synchronize()  # it outlives its thread


def test_waiting_lets_other_threads_of_python_run() -> None:
    x = _core.empty((3_000_000,), F32)
    slow_fill(x, 1)
    ticks = []
    ready = threading.Event()

    def tick() -> None:
        ready.set()
        while not runtime.current_stream().query() or not done:
            ticks.append(time.perf_counter())
            time.sleep(1e-4)

    done: list[bool] = []
    thread = threading.Thread(target=tick)
    thread.start()
    ready.wait()
    start = time.perf_counter()
    runtime.synchronize()
    end = time.perf_counter()
    done.append(True)
    thread.join()
    assert sum(start < t < end for t in ticks) > 5


def test_arrays_of_the_pool() -> None:
    for dtype in (np.float32, ml_dtypes.bfloat16, np.int32, np.float64):
        x = _core.empty((3, 5), np.dtype(dtype))
        assert x.shape == (3, 5) and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable
        assert x.ctypes.data % 64 == 0
    assert _core.empty((), F32).shape == ()
    assert _core.empty((0, 3), F32).size == 0
    with pytest.raises(ValueError, match=r"\[empty\] shape must not be negative, got -1"):
        _core.empty((-1, 3), F32)
    with pytest.raises(MemoryError):
        _core.empty((1 << 40, 1 << 40), F32)


def test_memory_figures_follow_the_arrays() -> None:
    before = runtime.memory_allocated()
    x = _core.empty((1024, 1024), F32)
    view = x[5:, ::2].T
    del x
    assert runtime.memory_allocated() == before + 2**22  # the view holds it
    del view
    assert runtime.memory_allocated() == before
    assert runtime.max_memory_allocated() >= before + 2**22
    assert runtime.memory_reserved() >= 2**22
    runtime.reset_peak_memory_stats()
    assert runtime.max_memory_allocated() == before
    runtime.empty_cache()
    stats = runtime.memory_stats()
    assert stats["reserved_bytes.all.current"] <= before * 9 // 8 + 512
    assert stats["allocation.all.allocated"] > 0


def test_limit_raises_memory_error_and_work_goes_on() -> None:
    runtime.set_memory_limit(runtime.memory_reserved() + 2**24)
    ooms = runtime.memory_stats()["num_ooms"]
    x = _core.empty((3 * 2**20,), F32)
    with pytest.raises(MemoryError, match=r"needed 8.0 MiB, allowed 1\d\.\d MiB, in use 12.0 MiB|needed 8.0 MiB"):
        _core.empty((2**21,), F32)
    assert runtime.memory_stats()["num_ooms"] == ooms + 1
    del x
    y = _core.empty((2**21,), F32)
    _core.fill(y, 2)
    runtime.synchronize()
    assert (y == 2).all()
    with pytest.raises(ValueError, match="limit must not be negative"):
        runtime.set_memory_limit(-1)


def test_released_memory_serves_the_same_stream_at_once() -> None:
    x = _core.empty((123_457,), F32)
    address = x.ctypes.data
    slow_fill(x, 1)
    del x
    again = _core.empty((123_457,), F32)
    assert again.ctypes.data == address
    _core.fill(again, 5)
    runtime.synchronize()
    assert (again == 5).all()


def test_borrowed_array_is_the_original() -> None:
    original = np.arange(12, dtype=np.float32).reshape(3, 4)
    for source in (original, original[:, ::2], original.astype(ml_dtypes.bfloat16)):
        view = _core.borrow(source)
        assert view.ctypes.data == source.ctypes.data and view.strides == source.strides and view.dtype == source.dtype
        assert view.flags.writeable
    original.flags.writeable = False
    assert not _core.borrow(original).flags.writeable


def test_borrowed_memory_outlives_queued_kernels(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.full(1_000_000, 2, np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r", shape=(1_000_000,))
    file: mmap.mmap = mapped._mmap
    closed = weakref.ref(mapped)
    y = _core.empty((1_000_000,), F32)
    weight = _core.borrow(mapped)
    del mapped
    slow_fill(y, 1)
    _core.add(weight, y, y)
    busy = not runtime.current_stream().query()
    del weight  # waits: a read of unmapped memory would end the process
    assert busy and runtime.current_stream().query() and closed() is None
    file.close()
    runtime.synchronize()
    assert (y == 3).all()


def test_wrong_memory_is_not_recorded() -> None:
    with pytest.raises(ValueError, match=r"\[record_stream\] the memory must be in use and come from the pool"):
        runtime.record_stream(np.zeros(3), runtime.current_stream())


def test_poison_fills_fresh_arrays() -> None:
    in_process_with(
        """
x = _core.empty((1000,), F32)
_core.fill(x, 1)
runtime.synchronize()
assert (x == 1).all()
address = x.ctypes.data
del x
x = _core.empty((1000,), F32)
runtime.synchronize()
assert x.ctypes.data == address and np.isnan(x).all()
""",
        ATTNEDIT_POISON="1",
    )


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


def test_threads_are_one_budget() -> None:
    before = runtime.get_num_threads()
    try:
        runtime.set_num_threads(1)
        assert runtime.get_num_threads() == 1
        with pytest.raises(ValueError, match=r"\[set_num_threads\] threads must be from 1 to 1024, got 0"):
            runtime.set_num_threads(0)
        with pytest.raises(ValueError, match=r"\[set_num_threads\] threads must be from 1 to 1024, got 1000000"):
            runtime.set_num_threads(10**6)
        assert runtime.get_num_threads() == 1
    finally:
        runtime.set_num_threads(before)


def test_show_config_names_what_was_chosen() -> None:
    text = runtime.show_config()
    for part in (_core.__version__, runtime.get_device_name(0), _core.isa(), str(runtime.get_num_threads())):
        assert part in text


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


def test_outputs_that_share_memory_are_refused_and_untouched() -> None:
    memory = np.arange(12, dtype=np.float32)
    a, b = memory[0:4], memory[4:8]
    for y in (memory[2:6], memory[6:10], memory[1:5]):
        with pytest.raises(ValueError, match=r"\[add\] y must not share memory with [ab]"):
            _core.add(a, b, y)
    with pytest.raises(ValueError, match=r"\[rope\] y must not share memory with x"):
        ones = np.ones((2, 1), np.float32)
        x = np.ones((1, 2, 2), np.float32)
        _core.rope_forward(x, ones, ones, 0, 1, 0, False, x)
    runtime.synchronize()
    np.testing.assert_array_equal(memory, np.arange(12, dtype=np.float32))
    _core.add(a, b, a)  # element by element: in place is right
    runtime.synchronize()
    np.testing.assert_array_equal(a, [4, 6, 8, 10])


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
