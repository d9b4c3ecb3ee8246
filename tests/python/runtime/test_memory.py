"""The pool's arrays and borrowed ones: figures, limits, lifetimes. The pool itself is proved in C++."""

import gc
import mmap
import weakref
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from queued import F32, in_process_with, slow_fill

from attnedit import _core, runtime


@pytest.fixture(autouse=True)
def clean_pool() -> Iterator[None]:
    gc.collect()
    runtime.synchronize()
    runtime.empty_cache()
    yield
    runtime.set_memory_limit(None)
    runtime.synchronize()


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
