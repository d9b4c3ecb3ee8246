"""What a run loses on the way (its disk, its memory, bits, the clock, its place) costs time and nothing else."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import ATTNEDIT, attnedit
from tiny import write_recipe

MAIN = ATTNEDIT[-1]
WRONG_CLOCK = "import time; real = time.time; time.time = lambda: real() - 4e8; " + MAIN
SCARCE = """
import resource, attnedit.convert, attnedit.cli
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, resource.RLIM_INFINITY))
attnedit.cli.main()
"""
OWN_LIMIT = "from attnedit import runtime; runtime.set_memory_limit(MORE); " + MAIN


def started(folder: Path, code: str = MAIN, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, "convert", str(folder / "recipe.yaml")]
    environment = os.environ | {"ATTNEDIT_SAVE_SECONDS": "0.02"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=limit
    )


def converted(folder: Path, code: str = MAIN, limit: Callable[[], None] | None = None) -> tuple[int, str]:
    process = started(folder, code, limit)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def student(folder: Path) -> bytes:
    return (folder / "run/student/model.safetensors").read_bytes()


def refusal(code: int, said: str) -> str:
    """The one line of a run that could not go on; nothing half-written may look like something."""
    told = [line for line in said.splitlines() if line.startswith("attnedit: ")]
    assert code == 2 and len(told) == 1 and "Traceback" not in said, f"{code} {said}"
    return told[0]


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def interrupted(folder: Path, mark: str, send: signal.Signals) -> subprocess.Popen[str]:
    """A conversion that was sent a signal when there was a file of this name."""
    write_recipe(folder)
    process = started(folder)
    while process.poll() is None and not (folder / "run" / mark).exists():
        time.sleep(0.001)
    process.send_signal(send)
    return process


def test_a_teacher_that_is_cut_while_it_is_read_is_named(finished: Path, tmp_path: Path) -> None:
    process = interrupted(tmp_path, "modelwise/metrics.jsonl", signal.SIGSTOP)
    path = tmp_path / "teacher/model.safetensors"
    whole = path.read_bytes()
    os.truncate(path, 4096)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert refusal(process.returncode, said) == f"attnedit: {path}: was cut while it was open, or its disk failed"
    assert "model.safetensors" in refusal(*converted(tmp_path))
    path.write_bytes(whole)
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)


CHANGED = """
import attnedit.convert.corpus as corpus
looked = corpus.heldout_documents
def then_change(path, recipe, *rest):
    found = looked(path, recipe, *rest)
    with open(recipe.data.train[0], "r+b") as file:
        file.write(b"other text")
    return found
corpus.heldout_documents = then_change
"""


def test_text_that_changes_while_a_run_reads_it_is_named(finished: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    path = tmp_path / "corpus.txt"
    whole = path.read_bytes()
    line = refusal(*converted(tmp_path, CHANGED + MAIN))
    assert line.startswith(f"attnedit: [data] {path} was changed while the run read it; start again when nobody writes")
    assert not list((tmp_path / "run").rglob("0*.safetensors")) and half_written(tmp_path) == []
    path.write_bytes(whole)
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)


def test_a_flipped_bit_is_named_and_the_file_made_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    for name in ("student", "evaluations"):
        shutil.rmtree(run / name)
    damaged = {
        next(run.glob("tokens/*/heldout.safetensors")), run / "edit/layer_001.safetensors",
        run / "layerwise/layer_001/attention.safetensors", run / "modelwise/state.safetensors",
    }  # fmt: skip
    for path in [*damaged, next(run.glob("tokens/*/source_0/00000.safetensors"))]:
        flipped = bytearray(path.read_bytes())
        flipped[len(flipped) * 3 // 4] ^= 16
        path.write_bytes(flipped)
    while damaged:
        line = refusal(*converted(tmp_path))
        named = {path for path in damaged if str(path) in line}
        assert len(named) == 1 and "does not have its checksum; remove the file to have it made again" in line
        named.pop().unlink()
        damaged = {path for path in damaged if path.exists()}
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)


def test_a_flipped_figure_is_named_and_made_again(finished: Path, tmp_path: Path) -> None:
    """What a run notes as JSON: made again where that is quick, refused where a layer must be trained for it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    for name in ("report.json", "provenance.json"):
        flip_digit(run / name)
    code, said = converted(tmp_path)
    assert code == 0, said
    for name in ("report.json", "provenance.json"):
        assert f"{run / name} is damaged" in said
    flip_digit(run / "provenance.json")
    assert f"{run / 'provenance.json'} is damaged" in converted(tmp_path)[1]
    assert "damaged" not in converted(tmp_path)[1]
    assert (run / "report.json").read_bytes() == (finished / "run/report.json").read_bytes()
    shutil.rmtree(run / "student")
    quick = [*run.glob("tokens/*/source_0/complete.json"), run / "evaluations/layerwise.json", run / "provenance.json"]
    slow = {run / "edit/config.json", run / "layerwise/layer_001/result.json"}
    for path in [*quick, *slow]:
        flip_digit(path)
    while slow:
        line = refusal(*converted(tmp_path))
        named = {path for path in slow if str(path) in line}
        assert len(named) == 1 and "remove the file to have it made again" in line
        slow -= named
        named.pop().unlink()
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)
    assert (run / "layerwise/layer_001/result.json").read_bytes() == (
        finished / "run/layerwise/layer_001/result.json"
    ).read_bytes()
    for name in ("provenance.json", "provenance.copy.json"):
        flip_digit(run / name)
    assert "what the run was made from is not known any more" in refusal(*converted(tmp_path))


def flip_digit(path: Path) -> None:
    """The last bit of a digit in the middle of a file: it stays JSON."""
    text = bytearray(path.read_bytes())
    at = next(i for i in range(len(text) // 3, len(text)) if 48 <= text[i] < 58)
    text[at] ^= 1
    path.write_bytes(text)


def test_a_student_that_is_damaged_is_named(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "run/student/model.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    assert f"{path} is not what SHA256SUMS notes" in refusal(*converted(tmp_path))
    shutil.rmtree(path.parent)
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)


def test_a_student_without_a_file_is_named(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "run/student"
    for sums in (True, False):
        for name in ("model.safetensors", "config.json", *(["tokenizer.json", "README.md"] if sums else [])):
            (folder / name).unlink()
            line = refusal(*converted(tmp_path))
            assert sums is False or f"{folder / name} is missing" in line
            assert line.endswith(f"; remove {folder}, and the same command makes it again")
            shutil.copy(finished / "run/student" / name, folder)
        code, said = converted(tmp_path)
        assert code == 0 and "is finished; nothing was computed again" in said
        (folder / "SHA256SUMS").unlink(missing_ok=True)
    shutil.rmtree(folder)
    code, said = converted(tmp_path)
    assert code == 0, said
    assert sorted((p.name, p.read_bytes()) for p in folder.iterdir()) == sorted(
        (p.name, p.read_bytes()) for p in (finished / "run/student").iterdir()
    )


def test_files_that_the_system_refuses(finished: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    for longest in (100, 9_000, 25_000, 60_000):

        def limit(longest: int = longest) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))

        assert str(tmp_path / "run") in refusal(*converted(tmp_path, limit=limit))
        assert half_written(tmp_path) == []
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished)


FULL = """
mount -t tmpfs -o size=$SMALL full "$1" && cp -r "$1.before/." "$1" || exit 99
for size in $SIZES; do
  mount -o remount,size=$size "$1" || exit 99
  "$2" -c "$3" convert "$1/recipe.yaml"
  echo "exit status $?; left: $(find "$1" -name '.*.partial')" >&2
done
cp "$1/run/student/model.safetensors" "$1.after"
"""


def test_a_full_disk(finished: Path, tmp_path: Path) -> None:
    """A file system of its own, that grows when it was found full."""
    place, before = tmp_path / "disk", tmp_path / "disk.before"
    place.mkdir()
    before.mkdir()
    write_recipe(before)
    needed = [sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) for folder in (before, finished / "run")]
    sizes = [needed[0] + round(share * needed[1]) for share in (0.05, 0.3, 0.8, 20)]
    command = ["unshare", "-rm", "sh", "-c", FULL, "sh", str(place), sys.executable, MAIN]
    environment = os.environ | {"SMALL": str(sizes[0]), "SIZES": " ".join(map(str, sizes))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        pytest.skip("unshare is absent: a file system of the test's own")
    if done.returncode == 99 or done.stderr.startswith("unshare: "):
        pytest.skip(f"no file system of the test's own can be made: {done.stderr.splitlines()[0]}")
    ends = [line for line in done.stderr.splitlines() if line.startswith("exit status")]
    assert ends == ["exit status 2; left: "] * 3 + ["exit status 0; left: "], done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("attnedit: ")]
    assert len(told) == 3 and all(str(place) in line and "No space left" in line for line in told), told
    assert Path(f"{place}.after").read_bytes() == student(finished)


def test_memory_that_is_refused(finished: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    for more in (4, 16, 64, 128):  # MiB beyond what the program takes
        code, said = converted(tmp_path, SCARCE.replace("MORE", str(more << 20)))
        if "emory allocation" not in said:  # OpenBLAS and tokenizers end the process themselves: that is like a kill
            refusal(code, said)
    assert "allowed 64.0 KiB" in refusal(*converted(tmp_path, OWN_LIMIT.replace("MORE", str(1 << 16))))
    code, said = converted(tmp_path)
    assert code == 0, said
    assert student(tmp_path) == student(finished) and half_written(tmp_path) == []


@pytest.mark.parametrize("mark", ["layerwise/activations", "modelwise/state.safetensors"])
def test_a_copy_continues_elsewhere_by_another_clock(finished: Path, tmp_path: Path, mark: str) -> None:
    (tmp_path / "first").mkdir()
    process = interrupted(tmp_path / "first", mark, signal.SIGKILL)
    process.communicate()
    copy = shutil.copytree(tmp_path / "first", tmp_path / "second")
    rng = random.Random(0)
    for path in copy.rglob("*"):
        at = rng.uniform(0, 2**32)  # from 1970 to 2106
        os.utime(path, (at, at))
    for folder, code in ((tmp_path / "first", MAIN), (copy, WRONG_CLOCK)):
        status, said = converted(folder, code)
        assert status == 0, said
        assert student(folder) == student(finished)


def test_a_run_folder_that_was_copied_continues_by_its_own_recipe(finished: Path, tmp_path: Path) -> None:
    interrupted(tmp_path, "modelwise/metrics.jsonl", signal.SIGKILL).communicate()
    other = shutil.copytree(tmp_path / "run", tmp_path / "elsewhere/other")
    done = attnedit("convert", other / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    assert (other / "student/model.safetensors").read_bytes() == student(finished)
    assert f"student: {other / 'student'}\n" in done.stdout and not (tmp_path / "run/student").exists()
    assert (other / "provenance.json").read_bytes() == (finished / "run/provenance.json").read_bytes()
