"""What objects show in a notebook: text stays text, pictures are inside, curves follow their phase."""

import base64
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny import random_decoder, tiny_config, write_recipe

import attnedit as ae
from attnedit import notebook
from attnedit.models import Decoder


class Cells(HTMLParser):
    """The texts of a page's cells, and the tags that it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


HOSTILE = "<script>alert(\"1\")</script> & 'x'"


def test_a_table_shows_texts_and_runs_none() -> None:
    page = Cells(notebook.table(HOSTILE, [(HOSTILE, "b")], ("", HOSTILE)))
    assert page.cells == ["", HOSTILE, HOSTILE, "b"]
    assert page.tags == {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_model_shows_its_layers_and_its_cache(teacher: Decoder) -> None:
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8, init="svd", layers=(1,)))
    cells = Cells(student._repr_html_()).cells
    assert cells[cells.index("layer 0") + 1] == "grouped-query attention (4 over 2 heads, full)"
    assert cells[cells.index("layer 1") + 1].startswith("MLA (kv_lora_rank 12, ")
    assert cells[cells.index("KV cache") + 1] == "52 numbers a token, 3,328 at 64 tokens"
    hostile = random_decoder(tiny_config(model_type=HOSTILE))
    assert "script" not in Cells(hostile._repr_html_()).tags


def test_a_comparison_shows_both_models_and_their_curves(teacher: Decoder, rows: np.ndarray) -> None:
    student = ae.edit(teacher, ae.GateSWA(sliding_window=4, full_layers=()))
    before = matplotlib.get_backend(auto_select=False)
    found = ae.evaluate(student, teacher, list(rows))
    page = found._repr_html_()
    cells = Cells(page).cells
    at = cells.index("NLL, nats/token")
    assert cells[at + 1 : at + 3] == [f"{found.teacher_nll:.4f}", f"{found.student_nll:.4f}"]
    assert f"{found.kl:.4f}" in cells and f"NLL at positions {found.late.first} to {found.late.last}" in cells
    (png,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(png).startswith(b"\x89PNG")
    assert matplotlib.get_backend(auto_select=False) == before  # the notebook's own is left alone


def test_a_plan_shows_what_its_text_says(tmp_path: Path) -> None:
    planned = ae.plan(ae.read_recipe(write_recipe(tmp_path)))
    cells = Cells(planned._repr_html_()).cells
    for line in planned.text(64).splitlines():
        name, said = line.split(":", 1)
        assert cells[cells.index(name) + 1] == said.strip()


def test_a_recipe_from_python_is_checked_too(tmp_path: Path) -> None:
    recipe = ae.read_recipe(write_recipe(tmp_path))
    again = ae.plan(replace(recipe, seed=5)).peak_memory  # what the process has already is in it
    assert again == pytest.approx(ae.plan(recipe).peak_memory, rel=0.01)
    for changes, message in (
        ({"seed": -1}, "[recipe] seed must be at least 0, got -1"),
        ({"layerwise": ae.distill.LayerwiseOptions(tokens=0)}, "[recipe] layerwise.tokens must be at least 1, got 0"),
        ({"data": ae.Data(train=[])}, "[recipe] data.train must be at least 1 long, got []"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            ae.plan(replace(recipe, **changes))


def test_a_picture_is_described_in_text() -> None:
    assert 'alt="&lt;b&gt;&quot;"' in notebook.picture(Figure(), '<b>"')


class Shown:
    """Stands for the output of a cell."""

    pages: list[str]

    def __init__(self) -> None:
        self.pages = []

    def display(self, page: Any, display_id: bool) -> "Shown":
        assert display_id
        self.pages.append(page.data)
        return self

    def update(self, page: Any) -> None:
        self.pages.append(page.data)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    monkeypatch.setattr(pytest.importorskip("IPython.display"), "display", shown.display)
    return shown


def test_curves_follow_both_phases(
    teacher: Decoder, rows: np.ndarray, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "REDRAWN_EVERY_SECONDS", 0.0)
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8, init="svd"))
    few = {"tokens": 3 * 256, "learning_rate": 1e-3}
    ae.distill.layerwise(
        student, teacher, rows, ae.distill.LayerwiseOptions(**few), on_step=notebook.layerwise_curves()
    )
    assert len(shown.pages) == 1 + 2 * 3
    told = re.findall(r"layer (\d): step (\d) of 3, loss \d", "".join(shown.pages))
    assert told == [("0", "1"), ("0", "2"), ("0", "3"), ("1", "1"), ("1", "2"), ("1", "3")]
    assert '<progress value="3" max="3"' in shown.pages[-1] and "data:image/png;base64," in shown.pages[-1]
    assert "steps/s" in shown.pages[2] and "s left" in shown.pages[2] and "s left" not in shown.pages[3]
    shown.pages.clear()
    ae.distill.modelwise(student, teacher, rows, ae.distill.ModelwiseOptions(**few), on_step=notebook.modelwise_curve())
    assert "model: step 3 of 3, loss" in shown.pages[-1]


def test_short_phases_and_layers_without_steps_show_that_they_are_over(
    teacher: Decoder, rows: np.ndarray, shown: Shown, tmp_path: Path
) -> None:
    """One step a layer, which is quicker than a redrawing and no line; then the same call again; then an identity."""
    student = ae.edit(teacher, ae.MLA(kv_lora_rank=12, qk_rope_head_dim=8, init="svd"))
    one = ae.distill.LayerwiseOptions(tokens=256, learning_rate=1e-3)
    for told in ("step 1 of 1", "nothing left to learn"):
        shown.pages.clear()
        ae.distill.layerwise(student, teacher, rows, one, folder=tmp_path, on_step=notebook.layerwise_curves())
        assert [told in page for page in shown.pages] == [False, True, True]
        assert "layer 1: " in shown.pages[-1]
    shown.pages.clear()
    same = ae.edit(teacher, ae.GateSWA(sliding_window=64, full_layers=()))
    ae.distill.layerwise(same, teacher, rows, one, on_step=notebook.layerwise_curves())
    assert "nothing left to learn" in shown.pages[-1]


def test_one_step_is_a_point_where_a_line_would_be_nothing(monkeypatch: pytest.MonkeyPatch, shown: Shown) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(notebook, "picture", lambda figure, alt: drawn.append(figure) or "")
    follow = notebook.modelwise_curve()
    follow(1, 2, {"kl": 0.5})
    follow(2, 2, {"kl": 0.4})
    assert [figure.axes[0].lines[0].get_marker() for figure in drawn] == ["o", ""]


def test_curves_are_drawn_now_and_then_but_always_at_the_end(shown: Shown) -> None:
    follow = notebook.modelwise_curve()
    for step in range(1, 1001):
        follow(step, 1000, {"kl": 1 / step})
    assert "step 1,000 of 1,000" in shown.pages[-1] and len(shown.pages) < 100


def test_without_ipython_curves_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match="live curves need IPython"):
        notebook.modelwise_curve()
