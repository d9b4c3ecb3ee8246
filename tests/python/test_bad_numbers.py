"""Numbers that go bad: each is either right or stopped, with the layer and the tensor named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import END, random_decoder, tiny_config, words, write_teacher

import attnedit as ae
from attnedit import distill, ops
from attnedit.checkpoint import Checkpoint, save_checkpoint
from attnedit.data import Tokenizer, heldout_rows, pack
from attnedit.models import Decoder

PHASE1 = distill.LayerwiseOptions(tokens=32 * 6, batch_tokens=32)
PHASE2 = distill.ModelwiseOptions(tokens=32 * 6, batch_tokens=32)
MLP, ATTENTION = "layers.0.mlp.down_proj.weight", "layers.1.self_attn.o_proj.weight"


def filled(path: str, value: float) -> Decoder:
    """The tiny teacher with one parameter all `value`."""
    model = random_decoder(tiny_config())
    shape = dict(model.named_parameters())[path].shape
    model.set_parameter(path, ae.tensor(np.full(shape, value, np.float32)))
    return model


def latent(teacher: Decoder, rows: np.ndarray, init: str = "random") -> Decoder:
    return ae.edit(teacher, ae.MLA(kv_lora_rank=16, qk_rope_head_dim=8, init=init), rows)  # type: ignore[arg-type]


def windowed(teacher: Decoder, rows: np.ndarray, **more: object) -> Decoder:
    return ae.edit(teacher, ae.GateSWA(sliding_window=4, **more), rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "run", "message"),
    [
        (MLP, lambda t, rows: latent(t, rows, "regression"), "hidden state before layer 1 holds NaN or Inf"),
        (MLP, windowed, r"kl is nan with layer \d full: the teacher's layers.0.mlp gives NaN or Inf"),
        (MLP, lambda t, rows: distill.layerwise(latent(t, rows), t, rows, PHASE1),
         r"\[layerwise\] layer 1: nmse is nan before .* the teacher's hidden state before layers.1 holds NaN or Inf"),
        (MLP, lambda t, rows: distill.layerwise(windowed(t, rows, full_layers=()), t, rows, PHASE1),
         r"\[layerwise\] layer 1: nmse is nan before training"),
        (MLP, lambda t, rows: distill.modelwise(latent(t, rows), t, rows, PHASE2),
         r"\[modelwise\] kl is nan before training: the teacher's layers.0.mlp gives NaN or Inf"),
        (MLP, lambda t, rows: ae.evaluate(latent(t, rows), t, list(rows)),
         r"\[evaluate\] the losses must be finite: the teacher's layers.0.mlp gives NaN or Inf"),
        (MLP, lambda t, rows: ae.generate(t, [rows[0]], max_new_tokens=1), "logits must be finite, got nan"),
        (ATTENTION, lambda t, rows: latent(t, rows, "regression"), r"\[edit\] layer 1: "),
        (ATTENTION, lambda t, rows: distill.layerwise(latent(t, rows), t, rows, PHASE1),
         r"layer 1: nmse is nan before training: the teacher's layers.1.self_attn gives NaN or Inf"),
    ],
)  # fmt: skip
def test_a_teacher_that_overflows_is_stopped_at_its_layer(
    rows: np.ndarray, path: str, run: Callable[[Decoder, np.ndarray], object], message: str
) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=message):
        run(filled(path, 3e38), rows)


def test_the_students_part_is_named_where_the_teacher_is_well(teacher: Decoder, rows: np.ndarray) -> None:
    student = latent(teacher, rows)
    shape = student.layers[1].self_attn.o_proj.weight.shape
    student.set_parameter(ATTENTION, ae.tensor(np.full(shape, np.inf, np.float32)))
    for run, message in (
        (lambda: distill.layerwise(student, teacher, rows, PHASE1, layers=[1]), "the student's layers.1.self_attn"),
        (lambda: distill.modelwise(student, teacher, rows, PHASE2), "the student's layers.1.self_attn gives NaN"),
        (lambda: ae.evaluate(student, teacher, list(rows)), "the student's layers.1.self_attn gives NaN"),
    ):
        with pytest.raises(FloatingPointError, match=message):
            run()


def test_a_layers_rate_that_blows_up_stops_with_step_layer_and_tensor(
    teacher: Decoder, rows: np.ndarray, tmp_path: Path
) -> None:
    student = latent(teacher, rows)
    options = distill.LayerwiseOptions(tokens=32 * 6, batch_tokens=32, learning_rate=1e30)
    message = r"\[layer 0\] nmse is nan at step \d of 6; the first bad parameter is \w+_proj"
    with pytest.raises(distill.NotFinite, match=message):
        distill.layerwise(student, teacher, rows, options, folder=tmp_path)
    assert not (tmp_path / "layer_000/attention.safetensors").exists()
    assert finite(student)


def finite(model: Decoder) -> bool:
    return all(np.isfinite(parameter.numpy()).all() for parameter in model.parameters())


@pytest.mark.parametrize("init", ["regression", "svd", "random"])
@pytest.mark.parametrize("path", [ATTENTION, "embed_tokens.weight", "layers.1.input_layernorm.weight"])
def test_targets_without_energy_leave_every_number_finite(rows: np.ndarray, path: str, init: str) -> None:
    """An attention that writes nothing, or whose input is nothing but zeros."""
    teacher = filled(path, 0.0)
    student = latent(teacher, rows, init)
    assert finite(student)
    for result in distill.layerwise(student, teacher, rows, PHASE1):
        assert np.isfinite([result.nmse_initial, result.nmse_layerwise]).all()
        assert result.nmse_layerwise <= result.nmse_initial
    result = distill.modelwise(student, teacher, rows, PHASE2)
    assert np.isfinite(result.probe_kl_after) and finite(student)


def test_a_target_without_energy_teaches_a_student_that_writes_something(teacher: Decoder, rows: np.ndarray) -> None:
    student, silent = latent(teacher, rows), filled(ATTENTION, 0.0)
    (result,) = distill.layerwise(student, silent, rows, PHASE1, layers=[1])
    assert np.isfinite(result.nmse_initial) and result.nmse_layerwise <= result.nmse_initial and finite(student)


def test_logits_that_are_all_equal(rows: np.ndarray) -> None:
    teacher = filled("embed_tokens.weight", 0.5)  # tied: every token has one hidden state and one logit
    student = latent(teacher, rows, "regression")
    compared = ae.evaluate(student, teacher, list(rows))
    assert compared.teacher_nll == pytest.approx(np.log(37), rel=1e-6) and compared.kl < 1e-9
    assert compared.top1_agreement == 1
    distill.layerwise(student, teacher, rows, PHASE1)
    assert np.isfinite(distill.modelwise(student, teacher, rows, PHASE2).probe_kl_after) and finite(student)
    (made,) = ae.generate(student, [rows[0][:3]], max_new_tokens=4, temperature=1.0, seed=0)
    assert len(made.tokens) == 4
    assert windowed(teacher, rows).config.full_layers in ([0], [1])


def test_documents_of_one_token(teacher: Decoder, rows: np.ndarray) -> None:
    student, single = latent(teacher, rows), rows[0][:1]
    assert heldout_rows([single, rows[0]], 32)[0].tolist() == rows[0].tolist()
    compared = ae.evaluate(student, teacher, [single, rows[0]])
    assert compared.tokens == 31 and np.isfinite(compared.kl)
    with pytest.raises(ValueError, match="heldout must have a row of at least 2 tokens, got none"):
        ae.evaluate(student, teacher, [single])
    assert pack([single] * 9, 4, separator=0).tokens.tolist()[0] == [single[0], 0, single[0], 0]
    assert finite(latent(teacher, rows[:, :1], "regression"))
    assert distill.layerwise(student, teacher, rows[:, :1], PHASE1)[0].kept
    (made,) = ae.generate(student, [single], max_new_tokens=2)
    assert len(made.tokens) == 2


def test_a_vocabulary_padded_beyond_the_tokenizer(tmp_path: Path) -> None:
    """Qwen3 has 151,936 rows for 151,669 tokens: no text has the others, and what draws one still has a text."""
    folder = write_teacher(tmp_path / "teacher", words(20, 0))
    tokenizer, small = Tokenizer(folder), ae.load(folder)
    padding = np.full((212, 24), 3.0, np.float32)
    tensors = {f"model.{path}": p.numpy() for path, p in small.named_parameters()}
    tensors["model.embed_tokens.weight"] = np.concatenate([small.embed_tokens.weight.numpy(), padding])
    raw = Checkpoint.open(folder).config | {"vocab_size": 512}
    save_checkpoint(tmp_path / "padded", raw, tensors)
    padded = ae.load(tmp_path / "padded")
    assert tokenizer.vocab_size == 300 and padded.config.vocab_size == 512
    rows = pack(tokenizer.encode_documents(words(60, 1).split("\n\n")), 32).tokens
    student = latent(padded, rows)
    distill.layerwise(student, padded, rows, PHASE1)
    distill.modelwise(student, padded, rows, PHASE2)
    compared = ae.evaluate(student, padded, list(rows[:4]))
    assert np.isfinite([compared.kl, compared.teacher_nll]).all() and finite(student)
    for made in ae.generate(student, [f"{END}the"] * 3, tokenizer, max_new_tokens=20, temperature=5.0, seed=1):
        assert isinstance(made.text, str) and all(0 <= token < 512 for token in made.tokens)
    assert tokenizer.decode([5, 511]) == tokenizer.decode([5])


@pytest.mark.parametrize("size", [1e15, 3e17])
def test_scores_far_beyond_what_a_model_makes_have_a_softmax(size: float) -> None:
    """Scores up to 1e36: each query sees its best key alone, no weight is NaN."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 40, 16)).astype(np.float32) for _ in range(3))
    q, k = q * np.float32(size), k * np.float32(size)
    scores = np.where(np.tri(40, dtype=bool), q[0].astype(float) @ k[0].astype(float).T, -np.inf)
    for compute in ("float32", "bfloat16"):
        with ae.compute(compute):
            o = ops.attention(ae.tensor(q), ae.tensor(k), ae.tensor(v), 1, 1, 1.0).numpy()
        assert np.isfinite(o).all()
        if compute == "float32":
            np.testing.assert_allclose(o[0], v[0][scores.argmax(1)], rtol=1e-6)


@pytest.mark.parametrize("size", [1e18, 1e25, 1e37])
def test_a_norm_of_numbers_whose_squares_overflow(size: float) -> None:
    """It is what it is of small ones, and not 0."""
    x = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    weight = ae.tensor(np.linspace(0.5, 2, 70, dtype=np.float32))
    large = ops.rms_norm(ae.tensor(x * np.float32(size)), weight, 1e-30).numpy()
    np.testing.assert_allclose(large, ops.rms_norm(ae.tensor(x), weight, 1e-30).numpy(), rtol=1e-5)


def test_a_layer_that_writes_huge_numbers_does_not_make_every_token_equally_likely(rows: np.ndarray) -> None:
    """Its direction is what the last norm leaves."""
    models = []
    for size in (1e12, 1e25):
        model = random_decoder(tiny_config())
        last = dict(model.named_parameters())["layers.1.mlp.down_proj.weight"].numpy()
        model.set_parameter("layers.1.mlp.down_proj.weight", ae.tensor(last * np.float32(size)))
        models.append(model)
    found = ae.evaluate(*models, list(rows))
    assert abs(found.student_nll - found.teacher_nll) < 1e-4 and found.kl < 1e-6
    assert abs(found.teacher_nll - np.log(models[0].config.vocab_size)) > 1e-2
