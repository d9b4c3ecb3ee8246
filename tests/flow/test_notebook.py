"""examples/attention_editing.ipynb runs from its first cell to its last, and shows what it says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "attention_editing.ipynb"


def test_it_is_committed_without_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Source -> the executed cell's outputs; run beside a copy of the examples, so that nothing is written here."""
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel run the notebook")
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel run the notebook")
    folder = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("notebook") / "examples")
    notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def outputs_of(cells: dict[str, Any], begin: str) -> list[Any]:
    (found,) = (outputs for source, outputs in cells.items() if source.startswith(begin))
    return list(found)


def html_of(cells: dict[str, Any], begin: str) -> str:
    return "".join(output["data"].get("text/html", "") for output in outputs_of(cells, begin) if "data" in output)


def text_of(cells: dict[str, Any], begin: str) -> str:
    return "".join(output.get("text", "") for output in outputs_of(cells, begin))


@pytest.mark.parametrize(
    ("begin", "parts"),
    [
        ("teacher =", ["Decoder, qwen3", "grouped-query attention (8 over 4 heads, full)"]),
        ("recipe =", ["Plan", "(-50.0 %)", "195 steps"]),
        ("student =", ["layer 0, 1, 2, 3", "MLA (kv_lora_rank 96"]),
        ("as_initialised =", ["held-out predictions", "top-1 agreement", "data:image/png;base64,"]),
        ("layers =", ["<progress", "layer 3: step 195 of 195", "data:image/png;base64,"]),
        ("outcome =", ["<progress", "model: step 195 of 195", "data:image/png;base64,"]),
        ("folder =", ["Decoder, deepseek_v3", "MLA (kv_lora_rank 96"]),
    ],
)
def test_every_step_shows_itself(cells: dict[str, Any], begin: str, parts: list[str]) -> None:
    shown = html_of(cells, begin)
    for part in parts:
        assert part in shown, (begin, part)


def test_the_student_comes_nearer_and_continues(cells: dict[str, Any]) -> None:
    for begin in ("outcome =", "trained ="):
        before, after = map(float, re.findall(r"\d+\.\d+", text_of(cells, begin)))
        assert after < before
    text = text_of(cells, "tokenizer =")
    assert text.count("--- student") == 2 and "def read_file(path" in text
    assert "attnedit: logits up to" in text_of(cells, "folder =")
