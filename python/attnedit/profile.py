"""Where a step goes: a trace of every kernel on every stream, for chrome://tracing or ui.perfetto.dev."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attnedit import _core, runtime


@contextmanager
def profile(path: str | Path) -> Iterator[None]:
    """Writes what runs inside as Chrome trace events: one process per device, one thread per stream.

    Each event has the shapes and types of the kernel's arguments, the bytes that it must read and write (an argument
    counts once, of a table or cache what is used) and, where arithmetic dominates, the floating-point operations of
    its formula, both with their rates. One profile at a time; a raised error still writes. Raises OSError before
    anything runs if path cannot be written, ValueError inside another profile.

        with ae.profile("step.json"):
            loss = step()
    """
    path, found = Path(path), list[dict[str, Any]]()
    new = not path.exists()
    path.open("a").close()  # what cannot be written is told before the work, not after it
    if new:
        path.unlink()
    with ExitStack() as behind, spans(found):
        behind.callback(lambda: _write(path, found))
        yield


def _write(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"traceEvents": _labels(found) + [_event(span) for span in found]}))


@contextmanager
def spans(found: list[dict[str, Any]]) -> Iterator[None]:
    """Puts every kernel that runs inside into found: name, begin and end in seconds, flops, bytes, shapes, dtypes."""
    runtime.synchronize()
    _core.start_profile()
    try:
        yield
    finally:
        try:
            runtime.synchronize()
        finally:
            found += _core.stop_profile()


def _event(span: dict[str, Any]) -> dict[str, Any]:
    seconds = span["end"] - span["begin"]
    about: dict[str, Any] = {"shapes": span["shapes"], "dtype": span["dtypes"]}
    about |= {"MiB": round(span["bytes"] / 2**20, 3), "GB/s": round(span["bytes"] / 1e9 / max(seconds, 1e-9), 2)}
    if span["flops"]:
        about |= {"GFLOP": span["flops"] / 1e9, "GFLOP/s": round(span["flops"] / 1e9 / max(seconds, 1e-9), 1)}
    return {
        "name": span["name"], "ph": "X", "ts": span["begin"] * 1e6, "dur": seconds * 1e6,
        "pid": span["device"], "tid": span["stream"], "args": about,
    }  # fmt: skip


def _labels(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    devices = sorted({span["device"] for span in spans})
    streams = sorted({(span["device"], span["stream"]) for span in spans})
    named = [("process_name", d, None, runtime.get_device_name(d)) for d in devices]
    named += [("thread_name", d, s, f"stream {s}") for d, s in streams]
    return [
        {"name": kind, "ph": "M", "pid": d, "args": {"name": text}} | ({} if s is None else {"tid": s})
        for kind, d, s, text in named
    ]
