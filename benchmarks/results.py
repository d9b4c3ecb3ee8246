"""A line of results.csv, and the table on the terminal."""

import csv
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results.csv"
Line = dict[str, str]  # as it is read again
QUIET = 0.1  # cores that others may take before a line is distrusted


@dataclass(frozen=True)
class Row:
    """A case beside one peer, or beside none. README.md explains the columns."""

    date: str
    commit: str
    processor: str
    isa: str
    threads: int
    blas_core: str
    kernel: str
    case: str
    direction: str
    dtype: str
    repetitions: int
    ours_ms: float
    ours_min_ms: float
    ours_max_ms: float
    limit: str  # fma in GFLOP/s; read, copy and mixed in GB/s
    limit_rate: float | None
    share: float | None
    ours_extra_mib: float  # as the pool counts
    ours_extra_rss_mib: float
    peer: str
    allocator: str
    peer_ms: float | None
    peer_min_ms: float | None
    peer_max_ms: float | None
    ratio: float | None
    peer_extra_rss_mib: float | None
    cores_others_took: float
    peer_repetitions: int | None  # the last column, for the lines before it do not have it


def three(samples: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest, in milliseconds."""
    return tuple(round(1e3 * f(samples), 4) for f in (statistics.median, min, max))  # type: ignore[return-value]


class Refused(Exception):
    """What was asked for cannot be done: one line, and exit status 2."""


def append(rows: list[Row], path: Path) -> None:
    """Adds lines behind those of earlier runs; a file with other columns is refused."""
    header = ",".join(f.name for f in fields(Row)) + "\n"
    try:
        if path.exists():
            require_file(path)
            with path.open() as file:
                if file.readline(2 * len(header)) != header:
                    raise Refused(f"[bench] {path} has other columns than this version writes; give another --results")
            if not path.read_bytes().endswith(b"\n"):
                raise Refused(f"[bench] {path} ends in half a line, which must go: a run was stopped while it wrote")
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                file.write(header)
            writer.writerows(asdict(row).values() for row in rows)
    except OSError as error:
        raise Refused(f"[bench] --results {path}: {error.strerror}") from None


def require_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise Refused(f"[bench] --results {path} must be a file, got {'a folder' if path.is_dir() else 'a device'}")


def read(path: Path) -> list[Line]:
    """The lines of a results file; what a later version added is empty in earlier ones. None is refused."""
    require_file(path)
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file, restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"[bench] --results {path}: {getattr(error, 'strerror', None) or 'no text of lines'}") from None
    if not lines:
        raise Refused(f"[bench] --results {path} must have lines of results, got none")
    if missing := [field.name for field in fields(Row) if field.name not in lines[0]]:
        raise Refused(f"[bench] --results {path} must have the columns of results.csv, {missing[0]} is missing")
    return lines


@contextmanager
def told(results: Path, out: Path) -> Iterator[None]:
    """What is made of results inside and put to out: why it cannot be is one line, and exit status 2."""
    try:
        yield
        return
    except Refused as refused:
        print(refused, file=sys.stderr)
    except ValueError as error:
        print(f"[bench] --results {results} holds what no run writes: {error}", file=sys.stderr)
    except OSError as error:
        print(f"[bench] --out {out}: {error.strerror}", file=sys.stderr)
    sys.exit(2)


def newest(path: Path) -> list[Line]:
    """The last line of every case and peer, of the processor and instruction set that were measured last; one during
    which others took cores only where there is none without."""
    lines = read(path)
    # Earlier lines say less of a processor: only how the name that they have now begins.
    last, isa = lines[-1]["processor"], lines[-1]["isa"]
    same = [line for line in lines if line["processor"] == last or last.startswith(line["processor"] + " family ")]
    here = [line for line in same if line["isa"] == isa]
    keys = ("kernel", "case", "direction", "dtype", "threads", "peer", "allocator")
    undisturbed = [line for line in here if float(line["cores_others_took"]) <= QUIET]
    return list({tuple(line[k] for k in keys): line for line in (*here, *undisturbed)}.values())


def show(kernel: str, rows: list[Row], console: Console) -> None:
    table = Table(title=kernel, title_justify="left")
    for heading in ("case", "direction", "threads", "ours ms", "min-max", "of limit", "extra MiB", "peer", "allocator",
                    "peer ms", "min-max", "extra MiB", "ratio"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("case", "direction", "peer", "allocator") else "right")
    before = None
    for r in rows:
        share = "" if r.share is None else f"{r.share:.0%} {r.limit}"
        mine = (r.case, r.direction, str(r.threads), number(r.ours_ms),
                f"{number(r.ours_min_ms)}-{number(r.ours_max_ms)}", share,
                number(max(r.ours_extra_mib, r.ours_extra_rss_mib)))  # fmt: skip
        theirs: tuple[str, ...] = ("",) * 6
        if r.peer_ms is not None and r.peer_min_ms is not None and r.peer_max_ms is not None:
            theirs = (r.peer, r.allocator, number(r.peer_ms), f"{number(r.peer_min_ms)}-{number(r.peer_max_ms)}",
                      number(r.peer_extra_rss_mib or 0), f"{r.ratio:.2f}x")  # fmt: skip
        elif r.peer:
            theirs = (r.peer, r.allocator, "failed", "", "", "")
        table.add_row(*(mine if mine != before else ("",) * len(mine)), *theirs)
        before = mine
    console.print(table)
    if (others := max(r.cores_others_took for r in rows)) > QUIET:
        console.print(f"[yellow]other processes took up to {others:.2f} cores meanwhile: trust the ratios at most")


def number(x: float) -> str:
    """Three digits that count."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}" if x >= 0.1 else f"{x:.3f}"


EXPLANATION = """\
ratio       the peer's median time by ours: above 1 we are faster
of limit    the work that the definition needs, per second, by what benchmarks/limits reached in this run:
            fma = multiply-adds in registers; pairs = the same as dot products of bfloat16 pairs;
            copy, mixed (AdamW's streams) and read = memory beyond the caches,
            so that a case that fits into a cache can pass 100 %
extra MiB   greatest memory above inputs and answers; ours is the greater of the pool's count and the process's growth
allocator   shipped = as the system has it; kept = told by its environment to keep what it freed"""
