"""What the benchmarks do without a clock. Their answers are compared by `run.py --quick`."""

import csv
import importlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# The rows of the table that people choose by: kernel, case, direction, dtypes.
WANTED = {
    ("attention", "16 heads of 128 T2048", "forward", "float32"),
    *(
        ("attention", f"{case}{' bf16' if dtype == 'bfloat16' else ''}", "f+b", dtype)
        for case in (
            "16 heads of 128 T512", "16 heads of 128 T2048", "Qwen3-0.6B T4096 W512 gated", "Qwen3-0.6B as MLA T2048",
        )
        for dtype in ("float32", "bfloat16")
    ),
    ("attention", "16 heads of 128 T512 huge scores", "f+b", "float32"),
    ("attention", "16 heads of 128 T2048 8 documents", "f+b", "float32"),
    *(
        ("mla_decode", f"Qwen3-0.6B as MLA B{b} T{t}{cache}", "forward", dtype)
        for b in (1, 8) for t in (4096, 32768) for cache, dtype in (("", "float32"), (" bf16 cache", "bfloat16"))
    ),
    ("decode_attention", "Qwen3-0.6B B1 W512", "forward", "float32"),
    ("decode_attention", "Qwen3-0.6B B1 W512 bf16 cache", "forward", "bfloat16"),
    *(
        ("fused_kl", f"Qwen3-0.6B T512 V151936{' bf16' if dtype == 'bfloat16' else ''}", direction, dtype)
        for direction in ("loss+dH", "loss+dH+dW") for dtype in ("float32", "bfloat16")
    ),
    ("logit_mse", "Qwen3-0.6B T512 V151936", "loss+dH", "float32"),
    ("rms_norm", "Qwen3-0.6B rows T16384", "f+b", "float32"),
    ("rope", "Qwen3-0.6B T8192", "f+b", "float32"),
    ("swiglu", "Qwen3-0.6B T8192", "f+b", "float32"),
    ("embedding", "Qwen3-0.6B T16384 V151936", "f+b", "float32"),
    ("fused_mse", "Qwen3-0.6B cosine T16384", "loss+gradient", "float32"),
    ("adamw", "64 Mi parameters", "step", "float32"),
    ("gemm", "Qwen3-0.6B gate_proj T2048", "f+b", "float32"),
    ("gemm", "Qwen3-0.6B gate_proj T2048 bf16", "f+b", "bfloat16"),
    ("phase2_step", "Qwen3-0.6B width, 8 layers T1024", "step", "float32"),
    ("phase2_step", "Qwen3-0.6B width, 8 layers T1024 bf16", "step", "bfloat16"),
    ("phase1_step", "one Qwen3-0.6B layer as MLA, 2 rows of T2048", "step", "float32"),
    ("phase1_step", "one Qwen3-0.6B layer as MLA, 2 rows of T2048 bf16", "step", "bfloat16"),
}  # fmt: skip


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return {name: importlib.import_module(name) for name in ("case", "results", "measure", "run", "plots")}


def cases(room: dict[str, ModuleType]) -> list[tuple[str, Any]]:
    return [(k, c) for k, module in room["run"].MODULES.items() for c in importlib.import_module(module).CASES]


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = {k: v for k, v in os.environ.items() if k != "ATTNEDIT_PEER_PYTHON"}
    command = [sys.executable, str(BENCHMARKS / "run.py"), *arguments]
    return subprocess.run(command, env=here | environment, capture_output=True, text=True)


def row(room: dict[str, ModuleType], kernel: str, case: Any, threads: int, **other: Any) -> Any:
    made = room["results"].Row(
        "2026-01-01T00:00:00Z", "abc", "P", "avx2", threads, "B", kernel, case.name, case.direction, case.dtype, 7, 2.0,
        1.0, 3.0, case.limit, None, None, 0.0, 0.0, "", "", None, None, None, None, None, 0.0, None,
    )  # fmt: skip
    return replace(made, **other)


def test_the_usual_run_has_the_table_and_every_kernel(room: dict[str, ModuleType]) -> None:
    usual = [(k, c) for k, c in cases(room) if not c.long]
    found = {(kernel, c.name, c.direction, c.dtype) for kernel, c in usual}
    assert not WANTED - found
    assert {path.stem for path in (BENCHMARKS / "kernels").glob("*.py")} <= {kernel for kernel, _ in usual}


def test_cases_are_told_apart_and_a_small_one_is_checked_in_passing(room: dict[str, ModuleType]) -> None:
    names = [(k, c.name, c.direction, c.dtype, c.threads, c.peers) for k, c in cases(room)]
    assert len(names) == len(set(names))
    assert {k for k, c in cases(room) if c.quick} == set(room["run"].MODULES)


@pytest.mark.parametrize(
    "theirs, said",
    [
        ({"y": [1, 2, 3]}, []),
        ({"y": [1, 2, 3 + 2e-4]}, []),
        ({"y": [1, 2.1, 3]}, ["y apart by 1.00e-01, its greatest number is 3.00e+00"]),
        ({"y": [1, np.nan, 3]}, ["y apart by nan, its greatest number is nan"]),
        ({"y": [1, 2]}, ["y: (3,) numbers against (2,)"]),
        ({}, ["no answers"]),
    ],
)
def test_answers_are_compared(
    room: dict[str, ModuleType], tmp_path: Path, theirs: dict[str, list[float]], said: list[str]
) -> None:
    np.savez(tmp_path / "a.npz", y=np.array([1.0, 2, 3]))
    np.savez(tmp_path / "b.npz", **{k: np.array(v) for k, v in theirs.items()})
    case = room["case"].Case("c", "forward", {}, "fma", 1.0)
    assert room["measure"].differences(case, tmp_path / "a.npz", tmp_path / "b.npz") == said


@pytest.mark.parametrize(
    "arguments, environment, said",
    [
        (["zzz"], {}, r"\[bench\] no benchmark is called zzz; there are adamw, add, .*"),
        (["add", "--case", "zzz"], {}, r"\[bench\] none of the usual cases of add has 'zzz' in its name"),
        (["add", "--long"], {}, r"\[bench\] none of the long cases of add exists; 2 without --long"),
        (["add", "--limits", "/nowhere"], {}, r"\[bench\] --limits .*, got /nowhere: no such file"),
        (["add", "--limits", "/bin/true"], {}, r"\[bench\] /bin/true did not measure registers: .*"),
        (["add", "--limits", "/tmp"], {}, r"\[bench\] /tmp did not measure registers: .*Permission denied.*"),
        (["add", "--results", "/nowhere/r.csv"], {}, r"\[bench\] --results /nowhere/r.csv: No such file or directory"),
        (["add", "--quick"], {"ATTNEDIT_PEER_PYTHON": "/nowhere"},
         r"\[bench\] ATTNEDIT_PEER_PYTHON must be .*, got /nowhere: No such file or directory"),
        (["add", "--quick"], {"ATTNEDIT_PEER_PYTHON": "/bin/false"},
         r"\[bench\] ATTNEDIT_PEER_PYTHON must be .*, got /bin/false: exit status 1"),
        (["add", "--quick"], {"ATTNEDIT_ISA": "sse9"}, r"\[ATTNEDIT_ISA\] must be .*, got sse9"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_line(arguments: list[str], environment: dict[str, str], said: str) -> None:
    done = bench(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(said + "\n", done.stderr), done.stderr


def test_quick_tells_answers_and_no_times(tmp_path: Path) -> None:
    done = bench("add", "--quick", "--results", str(tmp_path / "r.csv"), ATTNEDIT_PEER_PYTHON=peer(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "add Qwen3-0.6B T2048 forward: right beside numpy add\n" in done.stdout
    assert "ratio" not in done.stdout and " ms" not in done.stdout and not (tmp_path / "r.csv").exists()


def peer(folder: Path, does: str = "kill -9 $$") -> str:
    """A Python that says it has torch, and does this when it is asked for more."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{does}\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.parametrize(
    "does, said",
    [
        ("kill -9 $$", "its process was ended by SIGKILL: out of memory?"),
        ("exit 3", "its process ended with status 3"),
        ("""while read asked; do echo '{"failed": "[alloc.cpp] no 8 GB"}'; done""", "[alloc.cpp] no 8 GB"),
    ],
)
def test_a_peer_that_fails_is_told_and_the_rest_goes_on(tmp_path: Path, does: str, said: str) -> None:
    results = tmp_path / "r.csv"
    done = bench("add", "--case", "T2048", "--results", str(results), ATTNEDIT_PEER_PYTHON=peer(tmp_path, does))
    assert done.returncode == 0, done.stderr
    assert f"torch failed: {said}\n" in done.stdout
    with results.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(r["peer"], r["allocator"], bool(r["peer_ms"]), r["peer_repetitions"]) for r in lines] == [
        ("torch add", "shipped", False, ""), ("torch add", "kept", False, ""), ("numpy add", "shipped", True, "7"),
    ]  # fmt: skip


def test_results_are_appended_to_and_never_mixed(room: dict[str, ModuleType], tmp_path: Path) -> None:
    results, (kernel, case) = room["results"], cases(room)[0]
    path = tmp_path / "r.csv"
    results.append([], path)
    results.append([row(room, kernel, case, 2)], path)
    results.append([row(room, kernel, case, 2)], path)
    assert len(path.read_text().splitlines()) == 3
    path.write_text("other,columns\n")
    with pytest.raises(results.Refused, match="has other columns"):
        results.append([row(room, kernel, case, 2)], path)
    assert path.read_text() == "other,columns\n"
    results.append([], results.RESULTS)  # the repository's own file has these columns


def test_pictures_come_from_a_usual_run(
    room: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.csv"
    room["results"].append([row(room, k, c, c.threads or 2) for k, c in cases(room) if not c.long], path)
    monkeypatch.setattr(sys, "argv", ["plots.py", "--results", str(path), "--out", str(tmp_path)])
    room["plots"].main()
    assert "fewer" not in capsys.readouterr().out
    assert {p.stem for p in tmp_path.glob("*.png")} == {
        "attention_length", "attention_window", "fused_kl_vocabulary", "fused_kl_length", "threads",
    }  # fmt: skip


def test_lines_that_others_disturbed_count_where_there_is_no_better(
    room: dict[str, ModuleType], tmp_path: Path
) -> None:
    path, (first, second, *_) = tmp_path / "r.csv", [c for k, c in cases(room) if k == "attention"]
    lines = [
        row(room, "attention", first, 2, processor="Brand", ours_ms=1.0),
        row(room, "attention", first, 2, processor="Brand", ours_ms=2.0, cores_others_took=0.1),
        row(room, "attention", first, 2, processor="Brand", ours_ms=3.0, cores_others_took=0.9),
        row(room, "attention", second, 2, processor="Brand", ours_ms=4.0, cores_others_took=0.5),
        row(room, "attention", second, 2, processor="Brand", ours_ms=5.0, cores_others_took=0.4),
        row(room, "attention", second, 7, processor="Brand of another", ours_ms=6.0),
    ]
    room["results"].append(lines[:-1], path)
    assert [line["ours_ms"] for line in room["plots"].newest(path)] == ["2.0", "5.0"]
    # What is written of the processor now says more than it did: they are one.
    later = row(room, "attention", second, 2, processor="Brand family 1 model 2 stepping 3", ours_ms=7.0)
    room["results"].append([lines[-1], later], path)
    assert [line["ours_ms"] for line in room["plots"].newest(path)] == ["2.0", "7.0"]


@pytest.mark.parametrize(
    "held, said",
    [
        (None, "No such file or directory"),
        ("", "must have lines of results, got none"),
        ("a,b\n1,2\n", "must have the columns of results.csv, date is missing"),
        (b"\xff\xfe\x00", "no text of lines"),
        ("HEADER\n" + ",".join(["x"] * 28) + "\n", "holds what no run writes: could not convert string to float: 'x'"),
    ],
)
def test_pictures_of_what_is_no_results_file_are_refused_in_one_line(
    room: dict[str, ModuleType], tmp_path: Path, held: str | bytes | None, said: str
) -> None:
    path = tmp_path / "r.csv"
    if held is not None:
        header = room["results"].RESULTS.open().readline().strip()
        path.write_bytes(held if isinstance(held, bytes) else held.replace("HEADER", header).encode())
    command = [sys.executable, str(BENCHMARKS / "plots.py"), "--results", str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"\[bench\] --results {path}:? {re.escape(said)}\n", done.stderr), done.stderr


def test_a_folder_of_pictures_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "plots.py"), "--out", str(tmp_path / "not" / "there")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("[bench] --out ") and done.stderr.count("\n") == 1


def test_a_processor_is_told_from_its_brothers(room: dict[str, ModuleType]) -> None:
    processor = importlib.import_module("side").processor
    zen = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\nflags\t\t: fpu avx2 "
    assert processor(f"{zen}avx512f avx512_bf16\n\nprocessor\t: 1\n") == (
        "AMD EPYC family 26 model 2 stepping 1 avx512_bf16"
    )
    assert processor(zen + "\n\n") == "AMD EPYC family 26 model 2 stepping 1 avx2"
    assert processor("model name\t: Some\nflags\t: fpu\n") == "Some"
    assert processor("BogoMIPS\t: 50\n") == os.uname().machine  # ARM


@pytest.mark.parametrize("target", ["bench", "bench-long"])
def test_make_reaches_cases_by_name(target: str) -> None:
    makefile = BENCHMARKS.parent
    done = subprocess.run(
        ["make", "-n", "-o", "bench-tools", target, "K=attention", "CASE=T2048 8"], cwd=makefile, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    long = "--long " if target == "bench-long" else ""
    assert f'benchmarks/run.py {long}attention --case "T2048 8"\n' in done.stdout
