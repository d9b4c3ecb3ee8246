"""The own class in transformers: registered or bundled, its caches, padding, saving."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from students import student

torch = pytest.importorskip("torch", reason="torch is not installed: make test makes an environment that has it")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import attnedit as ae  # noqa: E402
import attnedit.hf  # noqa: E402
from attnedit.models import Decoder  # noqa: E402


@pytest.fixture
def model() -> Decoder:
    return student("attnedit")


@pytest.fixture
def folder(model: Decoder, tmp_path: Path) -> Path:
    return ae.export(model, tmp_path / "out")


def registered(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def row(length: int = 30) -> Any:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 50, (1, length)))


def test_registered_folders_load_without_remote_code(folder: Path, model: Decoder) -> None:
    theirs = registered(folder)
    assert type(theirs).__module__ == "attnedit.hf.modeling_attnedit"
    ids = row()
    with torch.no_grad():
        logits = theirs(ids).logits.numpy()
    assert np.abs(logits - model.logits(ids.numpy().astype(np.int32)).numpy()).max() < 1e-4


def test_unregistered_folders_want_the_flag(folder: Path) -> None:
    """In a fresh interpreter that knows nothing of attnedit but the folder."""
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "m = A.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[2] == 'yes'); print(type(m).__name__)"
    )

    def run(trust: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, folder, trust], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    assert run("yes").stdout.strip() == "AttnEditForCausalLM"
    refused = run("no")
    assert refused.returncode != 0 and "trust_remote_code" in refused.stderr


def test_caches_hold_what_the_architecture_promises(folder: Path, model: Decoder) -> None:
    """Latents and one rotary key, windows less the query's own key; the layer with another window is kept whole."""
    theirs, length = registered(folder), 30
    with torch.no_grad():
        cache = theirs(row(length), use_cache=True).past_key_values
    shapes = [(tuple(layer.keys.shape), tuple(layer.values.shape)) for layer in cache.layers]
    sliding, whole = ((1, 2, 4, 8),) * 2, ((1, 2, length, 8),) * 2
    assert shapes == [sliding, whole, ((1, 1, length, 12), (1, 1, length, 4)), sliding, whole]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_left_padding_changes_nothing(folder: Path, attention: str) -> None:
    theirs = registered(folder)
    theirs.set_attn_implementation(attention)
    ids = row(12)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(17) >= 5).long()[None]
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with torch.no_grad():
        plain = theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, 12:]
        shifted = theirs.generate(padded, attention_mask=mask, **settings)[0, 17:]
        logits = theirs(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:, 5:]
        assert torch.allclose(logits, theirs(ids).logits, atol=1e-4)
    assert plain.tolist() == shifted.tolist()


def test_beams_reorder_the_caches(folder: Path) -> None:
    theirs, ids = registered(folder), row(9)
    settings = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        cached = theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **settings)
    assert cached.tolist() == whole.tolist()


def test_saved_and_read_again(folder: Path, tmp_path: Path, model: Decoder) -> None:
    """What transformers saves is still a folder of ours."""
    theirs = registered(folder)
    theirs.save_pretrained(tmp_path / "again")
    ids = row()
    again = ae.load(tmp_path / "again").logits(ids.numpy().astype(np.int32)).numpy()
    assert np.array_equal(again, model.logits(ids.numpy().astype(np.int32)).numpy())
    with torch.no_grad():
        assert torch.equal(registered(tmp_path / "again")(ids).logits, theirs(ids).logits)


def test_it_trains(folder: Path) -> None:
    theirs, ids = registered(folder).train(), row()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = theirs(ids, labels=ids).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]
