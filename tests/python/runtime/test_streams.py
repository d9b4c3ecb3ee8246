"""Devices, streams, events and threads as Python sees them. Their order is proved in C++."""

import threading
import time

import pytest
from queued import F32, in_process_with, slow_fill

import attnedit as ae
from attnedit import _core, runtime


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


def test_threads_are_one_budget() -> None:
    before = runtime.get_num_threads()
    try:
        runtime.set_num_threads(1)
        assert runtime.get_num_threads() == 1
        with pytest.raises(ValueError, match=r"\[set_num_threads\] threads must be from 1 to 1024, got 0"):
            runtime.set_num_threads(0)
        with pytest.raises(TypeError, match=r"\[set_num_threads\] threads must be a whole number, got '2'"):
            runtime.set_num_threads("2")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"\[Tensor\] array must be a numpy array, got list"):
            ae.Tensor([1.0])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\[set_num_threads\] threads must be from 1 to 1024, got 1000000"):
            runtime.set_num_threads(10**6)
        assert runtime.get_num_threads() == 1
    finally:
        runtime.set_num_threads(before)


def test_show_config_names_what_was_chosen() -> None:
    text = runtime.show_config()
    for part in (_core.__version__, runtime.get_device_name(0), _core.isa(), str(runtime.get_num_threads())):
        assert part in text
