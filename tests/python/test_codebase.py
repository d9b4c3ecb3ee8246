"""The rules of the house, as tests. Each failure names the file and the rule it broke."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python" / "attnedit"

# Rooms from the ground up. A room sees itself and every lower row, never its neighbours.
CPP_ROOMS = [["runtime", "simd"], ["tensor"], ["kernels"], ["bindings"]]
PYTHON_ROOMS = [
    ["checked"], ["runtime", "foreign", "notebook"], ["tensor", "profile"], ["autograd"], ["ops"], ["nn"],
    ["checkpoint", "data"], ["models"], ["activations"], ["edit", "distill", "evaluate", "export", "generate"],
    ["convert", "harness"], ["cli"],
]  # fmt: skip
# The one room, or file, that may include each third-party header.
CPP_OWNERS = {"pybind11/": "bindings", "Python.h": "bindings"}
MOST_LINES = {".cc": 500, ".h": 200, ".py": 400}
BANNED_STEMS = {"util", "utils", "helper", "helpers", "common", "misc", "base", "core", "manager"}


def sees(rooms: list[list[str]], here: str, there: str) -> bool:
    row = {room: i for i, names in enumerate(rooms) for room in names}
    return here not in row or there not in row or here == there or row[there] < row[here]


def sources(*suffixes: str) -> list[Path]:
    return [p for folder in (CSRC, PACKAGE) for p in folder.rglob("*") if p.suffix in suffixes]


def test_cpp_rooms_and_owners_of_headers() -> None:
    for path in sources(".h", ".cc"):
        relative = path.relative_to(CSRC).as_posix()
        here = relative.split("/")[0]
        for header in re.findall(r'#include ["<]([^">]+)[">]', path.read_text()):
            there = header.split("/")[0]
            # runtime and simd are one row that may meet: the test of the processor raises as the runtime does.
            allowed = sees(CPP_ROOMS, here, there) or {here, there} == {"runtime", "simd"}
            assert allowed, f"{relative}: {here} may not include {header}"
            for prefix, owner in CPP_OWNERS.items():
                owned = not header.startswith(prefix) or relative.startswith(owner)
                assert owned, f"{relative}: only {owner} may include {header}"


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_python_rooms() -> None:
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports(path):
            if module.startswith("attnedit."):
                there = module.split(".")[1]
                assert sees(PYTHON_ROOMS, here, there), f"{path}: {here} may not import {there}"


def test_only_ops_and_the_ground_call_compute_functions() -> None:
    allowed = {"runtime", "tensor", "profile", "autograd", "ops"}
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if "attnedit._core" in imports(path):
            assert here in allowed or path.name in ("optimizer.py", "moments.py"), (
                f"{path}: only ops may call the kernels"
            )


def test_no_god_files_and_no_junk_drawers() -> None:
    for path in sources(*MOST_LINES):
        lines = path.read_text().count("\n")
        assert lines <= MOST_LINES[path.suffix], f"{path}: {lines} lines"
        assert path.stem not in BANNED_STEMS, f"{path}: name it after what lives in it"


def test_one_stem_from_header_to_test_to_benchmark() -> None:
    for path in (CSRC / "kernels").glob("*.h"):
        if '#include "runtime/task.h"' not in path.read_text():
            continue  # a header that the sources of one kernel share
        assert (CSRC / f"kernels/{path.stem}.cc").exists(), f"{path}: no source"
        assert (ROOT / f"tests/cpp/kernels/{path.stem}_test.cc").exists(), f"{path}: no test"
        assert (ROOT / f"benchmarks/kernels/{path.stem}.py").exists(), f"{path}: no benchmark"
    for path in (ROOT / "benchmarks/kernels").glob("*.py"):
        assert (CSRC / f"kernels/{path.stem}.h").exists(), f"{path}: no kernel is called so"


def test_versions_agree() -> None:
    cmake = re.search(r"VERSION (\d+\.\d+\.\d+) LANGUAGES", (ROOT / "CMakeLists.txt").read_text())
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    package = re.search(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())
    assert cmake and project and package
    assert cmake[1] == project[1] == package[1]


def test_loops_see_no_standard_containers() -> None:
    """An inline function compiled under wider flags could become everyone's copy: simd/isa.h says why."""
    for path in (CSRC / "kernels").glob("*.cc"):
        text = path.read_text()
        start = text.find("#ifdef ATTNEDIT_ISA")
        if start < 0:
            continue
        loops = text[start : text.index("#else", start)] if "#else" in text[start:] else text[start:]
        used = re.findall(r"std::(?:vector|string|function|sort|max_element|accumulate|array)\b", loops)
        assert not used, f"{path}: the loops use {used}"
