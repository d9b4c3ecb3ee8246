"""The teacher's stream on disk is the teacher's own, whatever happens to the files in between."""

from pathlib import Path

import numpy as np
import pytest
from tiny import EXPERTS, random_decoder, tiny_config

from attnedit.activations import States, forward, passes
from attnedit.autograd import no_grad
from attnedit.models import Decoder
from attnedit.nn import GQAConfig
from attnedit.tensor import Array

ROWS = np.random.default_rng(2).integers(0, 37, (300, 32)).astype(np.int32)  # three passes
EVERY = np.arange(len(ROWS))


@pytest.fixture(params=["dense", "experts"])
def deep(request: pytest.FixtureRequest) -> Decoder:
    moe = EXPERTS if request.param == "experts" else None
    return random_decoder(tiny_config(attention=(GQAConfig(4, 2, 8, qk_norm=True),) * 4, moe=moe))


def live(teacher: Decoder) -> tuple[list[Array], list[Array]]:
    """Hidden states before every layer and attention outputs there, as the whole model computes them."""
    hidden, outputs = [], []
    with no_grad():
        h = teacher.embed_tokens(ROWS)
        for block in teacher.layers:
            hidden.append(h.numpy().copy())
            outputs.append(block.self_attn(block.input_layernorm(h)).numpy().copy())
            h = block(h)
    return [*hidden, h.numpy().copy()], outputs


def test_states_are_the_live_models_bits(deep: Decoder, tmp_path: Path) -> None:
    hidden, outputs = live(deep)
    states = States(deep, ROWS, tmp_path)
    for layer in (0, 1, 3):
        states.advance(layer)
        states.attend()
        np.testing.assert_array_equal(states.hidden(EVERY), hidden[layer])
        np.testing.assert_array_equal(states.target(EVERY), outputs[layer])
    states.advance(4)
    np.testing.assert_array_equal(states.hidden(EVERY[::7]), hidden[4][::7])
    final = np.concatenate([h.numpy() for h in forward([deep], passes(ROWS))[0]])
    np.testing.assert_array_equal(final, deep(ROWS).numpy())
    states.remove()
    assert not tmp_path.exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_walk_that_is_stopped_anywhere_goes_on_to_the_same_bits(
    deep: Decoder, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = States(deep, ROWS, tmp_path / "calm", dtype)  # type: ignore[arg-type]
    undisturbed.advance(3)
    expected = undisturbed.hidden(EVERY)
    rng = np.random.default_rng(4)
    for kill in range(6):
        states = States(deep, ROWS, tmp_path / "killed", dtype)  # type: ignore[arg-type]
        if kill == 3:  # with outputs that the walk may use
            states.advance(2)
            states.attend()
        writes = int(rng.integers(1, 400))

        def dying(*arguments: object, store: object = states._hidden, write: object = states._hidden._stamp) -> None:
            nonlocal writes
            writes -= 1
            if writes == 0:
                raise KeyboardInterrupt
            write(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(states._hidden, "_stamp", dying)
        try:
            states.advance(3)
        except KeyboardInterrupt:
            continue
    states = States(deep, ROWS, tmp_path / "killed", dtype)  # type: ignore[arg-type]
    states.advance(3)
    np.testing.assert_array_equal(states.hidden(EVERY), expected)


@pytest.mark.parametrize("name", ["hidden", "target"])
def test_a_flipped_bit_is_named_and_its_pass_computed_again(tmp_path: Path, deep: Decoder, name: str) -> None:
    hidden, outputs = live(deep)
    states = States(deep, ROWS, tmp_path)
    states.advance(2)
    states.attend()
    path = tmp_path / f"{name}.safetensors"
    with path.open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)[0]
        file.seek(-5, 2)
        file.write(bytes([byte ^ 4]))
    with pytest.warns(UserWarning, match=f"{path}: row 299 does not have its checksum; it is computed again"):
        np.testing.assert_array_equal(states.hidden(EVERY), hidden[2])
        np.testing.assert_array_equal(states.target(EVERY), outputs[2])
    np.testing.assert_array_equal(states.hidden(EVERY), hidden[2])
    states.advance(3)
    np.testing.assert_array_equal(states.hidden(EVERY), hidden[3])


def test_a_disk_that_keeps_nothing_is_told(tmp_path: Path, deep: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    states = States(deep, ROWS, tmp_path)
    states.advance(1)
    monkeypatch.setattr("attnedit.activations.store._write", lambda *_: None)
    states._hidden.write(0, np.ones((1, *states.shape[1:]), np.float32), 1)
    with (
        pytest.warns(UserWarning, match="row 0 does not have"),
        pytest.raises(OSError, match="row 0 does not have its checksum although it was written again"),
    ):
        states.hidden(EVERY[:1])


def test_bfloat16_rounds_the_stream_and_little_else(tmp_path: Path, deep: Decoder) -> None:
    hidden, outputs = live(deep)
    states = States(deep, ROWS, tmp_path, "bfloat16")
    states.advance(3)
    states.attend()
    for stored, exact in ((states.hidden(EVERY), hidden[3]), (states.target(EVERY), outputs[3])):
        error = np.square(stored - exact).sum() / np.square(exact).sum()
        assert 0 < error < 5e-3, error  # routers change their mind where two experts are near


def test_documents_of_a_row_do_not_see_each_other_on_the_way(deep: Decoder, tmp_path: Path) -> None:
    rows, second = ROWS[:150], 11
    starts = np.zeros_like(rows)
    starts[:, second:] = second
    together = States(deep, rows, tmp_path / "together", starts=starts)
    parts_of_rows = {"first": slice(0, second), "second": slice(second, None)}
    alone = [States(deep, np.ascontiguousarray(rows[:, at]), tmp_path / n) for n, at in parts_of_rows.items()]
    every = np.arange(len(rows))
    for states in (together, *alone):
        states.advance(3)
        states.attend()
    for read in (States.hidden, States.target):
        parts = np.concatenate([read(states, every) for states in alone], axis=1)
        np.testing.assert_allclose(read(together, every), parts, rtol=2e-4, atol=2e-5)
    batches, begins = passes(rows), passes(starts)
    final = np.concatenate([h.numpy() for h in forward([deep], batches, starts=begins)[0]])
    np.testing.assert_array_equal(final, deep(rows, document_starts=starts).numpy())
    states = States(deep, rows, tmp_path / "together")  # the same tokens without their documents are another's
    states.advance(3)
    np.testing.assert_allclose(states.hidden(every), live(deep)[0][3][:150], rtol=2e-4, atol=2e-5)
