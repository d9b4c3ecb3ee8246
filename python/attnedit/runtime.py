"""The device: streams, events and memory, under the names that users of torch.npu and torch.cuda know."""

import operator
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from attnedit import _core


@dataclass(frozen=True)
class Device:
    """One device, by its index. A simulated one says so in its name."""

    index: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < device_count():
            raise ValueError(f"[Device] index must be from 0 to {device_count() - 1}, got {self.index}")

    @property
    def name(self) -> str:
        return str(_core.device_name(self.index))


DeviceLike: TypeAlias = Device | int | None  # None: the current device of this thread


def _index(device: DeviceLike) -> int:
    if device is None:
        return current_device()
    return device.index if isinstance(device, Device) else device


def device_count() -> int:
    return int(_core.device_count())


def current_device() -> int:
    """The index of this thread's device, 0 at first."""
    return int(_core.current_device())


def set_device(device: DeviceLike) -> None:
    """Make it this thread's device."""
    _core.set_current_device(_index(device))


@contextmanager
def device(device: DeviceLike) -> Iterator[None]:
    """Use the device inside the block, and the one before it afterwards."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(before)


def get_device_name(device: DeviceLike = None) -> str:
    return str(_core.device_name(_index(device)))


def is_simulated() -> bool:
    """Whether the host computes what the device is said to compute."""
    return bool(_core.is_simulated())


class Stream:
    """An ordered queue of work. Work of different streams has no order but the one that events give it."""

    def __init__(self, device: DeviceLike = None) -> None:
        self._handle = _core.Stream(_index(device))

    @classmethod
    def _of(cls, handle: Any) -> "Stream":
        made = cls.__new__(cls)
        made._handle = handle
        return made

    @property
    def device(self) -> Device:
        return Device(self._handle.device)

    def synchronize(self) -> None:
        """Wait for the work queued so far, and raise what it raised."""
        self._handle.synchronize()

    def query(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self._handle.query())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        """Later work of this stream waits for the event; the caller does not."""
        self._handle.wait(event._handle)

    def wait_stream(self, stream: "Stream") -> None:
        """Later work of this stream waits for what is queued in the other one now."""
        self.wait_event(stream.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self._handle is other._handle

    def __hash__(self) -> int:
        return hash(self._handle)


class Event:
    """A mark in a stream, to wait for and to measure time with. Before its first record it counts as done."""

    def __init__(self) -> None:
        self._handle = _core.Event()

    def record(self, stream: Stream | None = None) -> None:
        self._handle.record((stream or current_stream())._handle)

    def wait(self, stream: Stream | None = None) -> None:
        """Let the stream wait for this event."""
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        return bool(self._handle.query())

    def synchronize(self) -> None:
        """Wait for the event, and raise what work before it raised."""
        self._handle.synchronize()

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from this event to a later one; both must be done."""
        return float(end._handle.elapsed_ms(self._handle))


def current_stream() -> Stream:
    """The stream that this thread launches on: its own of the current device, unless a `stream` block says other."""
    return Stream._of(_core.current_stream())


@contextmanager
def stream(stream: Stream) -> Iterator[None]:
    """Launch on the stream, and use its device, inside the block."""
    with device(stream.device):
        before = _core.current_stream()
        _core.set_current_stream(stream._handle)
        try:
            yield
        finally:
            _core.set_current_stream(before)


def synchronize(device: DeviceLike = None) -> None:
    """Wait for all streams of the device, and raise the first error of their work, the op's name in front."""
    index = _index(device)
    before = current_device()
    if index == before:
        _core.synchronize()
        return
    _core.set_current_device(index)
    try:
        _core.synchronize()
    finally:
        _core.set_current_device(before)


def record_stream(array: npt.NDArray[Any], stream: Stream) -> None:
    """Say that the stream uses array, pool memory of another stream: it is not reused before this use is over."""
    _core.record_stream(array, stream._handle)


def memory_stats(device: DeviceLike = None) -> dict[str, int]:
    """Bytes and counts under torch's keys, such as "allocated_bytes.all.peak"."""
    return dict(_core.memory_stats(_index(device)))


def memory_allocated(device: DeviceLike = None) -> int:
    """Bytes in use by arrays, in steps of 512."""
    return memory_stats(device)["allocated_bytes.all.current"]


def max_memory_allocated(device: DeviceLike = None) -> int:
    """The most bytes that were in use since the start or the last reset."""
    return memory_stats(device)["allocated_bytes.all.peak"]


def memory_reserved(device: DeviceLike = None) -> int:
    """Bytes taken from the device: those in use and those kept for reuse."""
    return memory_stats(device)["reserved_bytes.all.current"]


def reset_peak_memory_stats(device: DeviceLike = None) -> None:
    _core.reset_peak_memory_stats(_index(device))


def mem_get_info(device: DeviceLike = None) -> tuple[int, int]:
    """Bytes that are free on the device, and that it has; torch's name."""
    available, total = _core.memory_info(_index(device))
    return int(available), int(total)


def set_memory_limit(limit: int | None, device: DeviceLike = None) -> None:
    """The most bytes to reserve, or None. Going beyond raises MemoryError, after kept memory was given back in vain."""
    if limit is not None and limit < 0:
        raise ValueError(f"[set_memory_limit] limit must not be negative, got {limit}")
    _core.set_memory_limit(limit, _index(device))


def empty_cache(device: DeviceLike = None) -> None:
    """Give memory that is kept for reuse back, once queued work has passed it, and the heap's free memory, too."""
    _core.empty_cache(_index(device))


@dataclass
class Rehearsal:
    """What was launched, in order (name, floating-point operations, bytes read and written), and what memory it
    needed."""

    tasks: list[tuple[str, float, float]] = field(default_factory=list)
    allocated_peak: int = 0  # bytes in use by arrays
    reserved_peak: int = 0  # with what the pool keeps for reuse

    @property
    def flops(self) -> float:
        return sum(flops for _, flops, _ in self.tasks)


@contextmanager
def rehearsal() -> Iterator[Rehearsal]:
    """Inside, this thread's kernels are noted and not run, and memory is counted and not touched.

    So a program tells what it will take, at any size. Values are undefined: nothing inside may depend on them. What the
    block yields is filled when it ends.
    """
    made = Rehearsal()
    _core.start_rehearsal()
    try:
        yield made
    finally:
        made.tasks, made.allocated_peak, made.reserved_peak = _core.stop_rehearsal()


def rehearsed() -> int:
    """How many tasks this thread's rehearsal has noted so far."""
    return int(_core.rehearsed())


def resident_memory() -> int:
    """Bytes of this process that are in memory now, mapped files included; 0 where unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_resident_memory(reset: bool = False) -> int:
    """The most bytes of this process that were in memory at once, mapped files included (VmHWM); 0 where unknown.

    reset: what comes later is counted from here.
    """
    try:
        status = Path("/proc/self/status").read_text()
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def set_num_threads(threads: int) -> None:
    """The cores that a kernel may use, from 1 to 1,024. Results do not depend on it."""
    try:
        number = operator.index(threads)
    except TypeError:
        raise TypeError(f"[set_num_threads] threads must be a whole number, got {threads!r}") from None
    synchronize()  # what is queued has its scratch memory cut for the old number
    _core.set_num_threads(number)


def get_num_threads() -> int:
    return int(_core.num_threads())


def report_lost_files() -> None:
    """From here on a mapped file that is cut while it is read ends the process with one line that names it and exit
    status 2, not with a bare "Bus error". The command line does this; it takes SIGBUS for the whole process."""
    _core.report_lost_files()


def instruction_set() -> str:
    """The one in use. Raises ValueError where ATTNEDIT_ISA names none, or one that this processor lacks."""
    return str(_core.isa())


def has_bfloat16_products() -> bool:
    """Whether the instruction set in use multiplies bfloat16 faster than float32."""
    return instruction_set() in ("avx512_bf16", "amx")


def _bfloat16_products() -> str:
    if instruction_set() == "amx":
        return "matrix tiles"
    refused = "; the system refused matrix tiles" if _core.matrix_tiles_refused() else ""
    return ("dot products" if has_bfloat16_products() else "no dot products: slower than float32") + refused


def _memory() -> str:
    available, total = (size / 2**30 for size in mem_get_info(0))
    return f"{total:.1f} GiB, {available:.1f} GiB free"


def _backend() -> str:
    where = "this processor computes, in an accelerator's place" if is_simulated() else "a device of its own computes"
    return f"{_core.backend_name()}: {where}"


def show_config() -> str:
    """What was chosen here: version, device, instruction set, threads. A readable text of several lines. Where the
    environment asks for what is not there (ATTNEDIT_ISA, ATTNEDIT_BACKEND), the line says so."""

    def told(name: str, tell: Callable[[], str]) -> str:
        try:
            return f"{name:<17}{tell()}"
        except (ValueError, RuntimeError) as error:
            return f"{name:<17}{error}"

    try:
        devices = device_count()
    except RuntimeError:
        devices = 0  # the backend's line says why
    lines = [
        told("attnedit", lambda: f"{_core.__version__} (numpy {np.__version__})"),
        told("backend", _backend),
        *(told(f"device {i}", partial(get_device_name, i)) for i in range(devices)),
        told("memory", _memory),
        told("instruction set", instruction_set),
        told("bfloat16", _bfloat16_products),
        told("threads", lambda: str(get_num_threads())),
    ]
    return "\n".join(lines)


def _warn_of_threads() -> None:
    """OpenMP's grammar: numbers by nesting level, of which the first counts. Anything else is told."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    found = re.fullmatch(r"\s*0*([1-9]\d{0,8})\s*(,\s*0*[1-9]\d*\s*)*", asked)
    if asked and not (found and int(found[1]) <= _core.MOST_THREADS):
        del os.environ["OMP_NUM_THREADS"]  # or its first digits would count, where it has some
        wanted = f"OMP_NUM_THREADS must be a number of threads from 1 to {_core.MOST_THREADS}"
        told = f"{wanted}, got {asked!r}: every core is used"
        warnings.warn_explicit(told, RuntimeWarning, "attnedit", 0)


_warn_of_threads()
