"""The model card: what it inherits, what it tells, and what it keeps to itself."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from students import student
from tiny import random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit.export.card import front_matter, inherited_licence

OTHER = {"license": "other", "license_name": "as-base-model", "license_link": "LICENSE.txt"}


def head_of(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "README.md").read_text().split("---")[1]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "Tiny-Qwen3", words(20, 0))


def test_what_a_card_states_of_its_source(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("---\nlicense: apache-2.0\nlicense_link: LICENSE\ntags: [x]\n---\n# Tiny\n")
    (source / "LICENSE").write_text("terms")
    student = ae.edit(ae.load(source), ae.MLA(kv_lora_rank=12, init="svd"))
    folder = ae.export(student, tmp_path / "out", "deepseek_v3", source)
    assert head_of(folder) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "base_model": "Tiny-Qwen3",
        "base_model_relation": "finetune", "license": "apache-2.0", "license_link": "LICENSE",
        "tags": ["attnedit", "mla"],
    }  # fmt: skip
    assert (folder / "LICENSE").read_text() == "terms"
    text = (folder / "README.md").read_text()
    assert "2 of 2 layers: MLA (kv_lora_rank 12, " in text and "class `DeepseekV3ForCausalLM`" in text
    assert "| attnedit | " in text and str(tmp_path) not in text
    again = ae.export(ae.load(folder), tmp_path / "again", "youtu", folder)
    assert head_of(again) == head_of(folder)  # the base model, not the export in between


@pytest.mark.parametrize(
    ("card", "config", "files", "stated"),
    [
        (None, "", [], {}),
        ("---\nlicense: [broken\n---\n", "", [], {}),
        ("# no front matter", "", ["LICENSE.txt"], OTHER),
        ("---\nlicense: mit\n---\n", '"license": "gpl",', [], {"license": "mit"}),
        (None, '"license": "apache-2.0",', [], {"license": "apache-2.0"}),
    ],
)  # fmt: skip
def test_licences(
    source: Path, tmp_path: Path, card: str | None, config: str, files: list[str], stated: dict[str, str]
) -> None:
    if card is not None:
        (source / "README.md").write_text(card)
    for name in files:
        (source / name).write_text("terms")
    path = source / "config.json"
    path.write_text(path.read_text().replace("{", "{" + config, 1))
    folder = ae.export(ae.load(source), tmp_path / "out", "qwen3", source)
    assert {key: value for key, value in head_of(folder).items() if key.startswith("license")} == stated
    told = "states none" if not stated else f"As the base model's: {stated.get('license_name', stated['license'])}"
    assert told in (folder / "README.md").read_text()


def test_a_folder_of_the_hubs_cache_is_called_as_on_the_hub(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-Tiny/snapshots/0123abc"
    snapshot.parent.mkdir(parents=True)
    source.rename(snapshot)
    assert head_of(ae.export(ae.load(snapshot), tmp_path / "out", "qwen3", snapshot))["base_model"] == "Qwen/Qwen3-Tiny"


def test_a_class_that_auto_does_not_know_is_loaded_by_its_name(tmp_path: Path) -> None:
    text = (ae.export(student("mistral4"), tmp_path / "out", "mistral4") / "README.md").read_text()
    assert "from transformers import Mistral4ForCausalLM, AutoTokenizer" in text
    assert "mixture of 6 experts, 2 a token" in text


def test_a_model_from_memory_has_no_base(tmp_path: Path) -> None:
    folder = ae.export(student("attnedit"), tmp_path / "out")
    assert "base_model" not in head_of(folder)
    text = (folder / "README.md").read_text()
    assert "trust_remote_code=True" in text and "import attnedit.hf" in text
    assert (folder / "modeling_attnedit.py").is_file()


NAMES = ["a", *(f"b{i}" for i in range(40))]
BOMB = "a: &a [x]\n" + "".join(f"{n}: &{n} [*{m}, *{m}]\n" for m, n in pairwise(NAMES))
MERGES = "a: &a {x: 1}\n" + "".join(f"{n}: &{n} {{<<: [*{m}, *{m}]}}\n" for m, n in pairwise(NAMES))


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        (BOMB + "license: *b39", {}),
        (MERGES + "license: mit", {"license": "mit"}),
        ("license: " + "[" * 5000, {}),
        ("license: 2024-99-99", {"license": "2024-99-99"}),
        ("license: {a: b}\nlicense_name: &x [*x]", {}),
    ],
)
def test_a_card_that_grows_is_read_as_text(tmp_path: Path, stated: str, found: dict[str, str]) -> None:
    (tmp_path / "README.md").write_text(f"---\n{stated}\n---\n")
    (tmp_path / "config.json").write_text("{}")
    assert inherited_licence(front_matter(tmp_path), tmp_path) == found


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json"])
def test_an_export_carries_nothing_from_outside_its_source(tmp_path: Path, name: str) -> None:
    source = write_teacher(tmp_path / "teacher", "a b")
    (tmp_path / "mine").write_text("{}")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=f"{name} must lie in its folder"):
        ae.export(random_decoder(tiny_config()), tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


def test_a_card_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("---\nlicense: mine\n---\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"model/README.md must lie in its folder, it is a link to .*secret"):
        front_matter(tmp_path / "model")
