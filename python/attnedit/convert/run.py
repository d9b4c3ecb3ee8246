"""recipe -> run folder, step by step. Each step leaves its result under a final name; done steps are read again.

run/  provenance.json recipe.yaml   corpus and teacher hashes, the resolved recipe
      edit/                         the attention as initialised, a file a layer; config.json when all are there
      layerwise/layer_000/ ...      phase 1: attention, metrics.jsonl, result.json, or the state of the layer in work
      layerwise/activations/        the teacher's hidden states while phase 1 runs
      modelwise/                    phase 2: state, metrics.jsonl
      tokens/                       the text as tokens, as far as it was needed
      evaluations/*.json            teacher and student on the held-out text, after each step
      student/                      the edited model, a folder that loads
      report.json report.md plots
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

import attnedit
from attnedit import distill, runtime
from attnedit.checkpoint import Checkpoint, atomic_write, compare_sums, read_sealed, write_sealed
from attnedit.compute import compute
from attnedit.convert.corpus import FILES, Corpus, open_corpus
from attnedit.convert.folder import TOKENS, kept, note_inputs, owned, require_ours, require_same_inputs
from attnedit.convert.plan import in_bytes, plan
from attnedit.convert.progress import Progress
from attnedit.convert.recipe import Recipe
from attnedit.convert.texts import find_texts
from attnedit.data import Tokenizer, require_rows
from attnedit.distill.budget import steps_for
from attnedit.edit import edit, layer_path, student_of
from attnedit.evaluate import evaluate
from attnedit.evaluate.compare import Comparison
from attnedit.evaluate.report import write_report
from attnedit.export import export
from attnedit.models import Decoder, DecoderConfig, load
from attnedit.models import attnedit as own_format
from attnedit.models.decoder import edited_layers
from attnedit.models.load import map_parameters

LOWER = "try more tokens or a lower learning_rate"


def convert(recipe: Recipe, progress: Progress | None = None) -> dict[str, Any]:
    """Runs a recipe, or continues it; returns the report. A finished run's report is returned at once."""
    progress = progress or Progress()
    tokenizer = Tokenizer(recipe.teacher)
    planned = plan(recipe)  # of a process that holds its tokenizer
    if recipe.memory_limit_gib is not None:
        needed, allowed = planned.peak_memory, int(recipe.memory_limit_gib * 2**30)
        if needed > allowed:
            raise MemoryError(
                f"[convert] memory_limit_gib allows {in_bytes(allowed)}, but about {in_bytes(needed)} are needed; "
                "allow more, or shorten data.sequence_length"
            )
        runtime.set_memory_limit(allowed)
    if planned.warning is not None:
        progress.warn(planned.warning)
    if recipe.compute == "bfloat16" and not runtime.has_bfloat16_products():
        progress.warn("this processor has no bfloat16 dot products: compute: float32 would be faster and more exact")
    recipe = recipe.fitted(planned.source.rope.max_position_embeddings)
    run = Path(recipe.run)
    require_ours(run)
    require_same_inputs(run, {"version": attnedit.__version__, "recipe": recipe.decisive()})
    texts = find_texts(recipe, run / TOKENS / FILES)
    inputs = {
        "version": attnedit.__version__,
        "recipe": recipe.decisive(),
        "teacher": Checkpoint.open(recipe.teacher).fingerprint(),
        "tokenizer": tokenizer.fingerprint(),
        "corpus": texts.fingerprint,
    }
    require_same_inputs(run, inputs, texts.changes)
    report = _finished(run, progress)
    if report is not None:
        note_inputs(run, inputs)
        progress.say(f"{run} is finished; nothing was computed again")
        return report
    teacher = load(recipe.teacher)
    progress.say(f"{recipe.teacher}: {teacher!r}")
    vocabulary = teacher.config.vocab_size
    with owned(run), ExitStack() as opened:
        with progress.count("looking through the text", "parts") as on_part:
            corpus = opened.enter_context(open_corpus(recipe, texts, tokenizer, vocabulary, run / TOKENS, on_part))
        for options in (recipe.layerwise, recipe.modelwise):
            require_rows(corpus.train, steps_for(options.tokens, recipe.sequence_length, options.batch_tokens).rows)
        documents = "1 document" if len(corpus.heldout) == 1 else f"{len(corpus.heldout):,} documents"
        progress.say(f"rows of {recipe.sequence_length} tokens, {documents} held out")
        if corpus.warning is not None:
            progress.warn(corpus.warning)
        require_same_inputs(run, inputs, texts.changes)
        note_inputs(run, inputs)
        here = recipe.resolved() | {"run": "."}  # moved or copied, the folder continues where it lies
        atomic_write(run / "recipe.yaml", yaml.safe_dump(here, sort_keys=False))
        with _told(progress):
            return _steps(recipe, teacher, corpus, progress)


def _finished(run: Path, progress: Progress) -> dict[str, Any] | None:
    """The report of a run that has all its results. Raises ValueError where the student is not what was written."""
    student = run / "student"
    if student.exists():
        try:
            with _told(progress):
                compare_sums(student, whole=True)
            Checkpoint.open(student)  # SHA256SUMS may be missing, too
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}; remove {student}, and the same command makes it again") from None
    if not all((run / name).exists() for name in ("student", "report.json", "report.md")):
        return None
    try:
        return read_sealed(run / "report.json")
    except ValueError as error:
        progress.warn(f"{error}; it is made again")
        return None


def _steps(recipe: Recipe, teacher: Decoder, corpus: Corpus, progress: Progress) -> dict[str, Any]:
    run, seed = Path(recipe.run), recipe.seed
    student = _edited(recipe, teacher, corpus, progress)

    def measure(name: str) -> dict[str, Any]:
        path = run / "evaluations" / f"{name}.json"
        names = {field.name for field in fields(Comparison)}
        with progress.count(f"evaluating ({name})", "tokens") as on_tokens:
            return kept(path, lambda: asdict(evaluate(student, teacher, corpus.heldout, on_tokens)), names)

    evaluations = {"initial": measure("initial")}
    started = distill.probe_kl(student, teacher, corpus.train)
    with (
        compute(recipe.compute),
        progress.phase("layer-wise", edited_layers(student.config, teacher.config)) as on_layer_step,
    ):
        layers = distill.layerwise(
            student, teacher, corpus.train, recipe.layerwise, folder=_made(run / "layerwise"), seed=seed,
            on_step=on_layer_step,
        )  # fmt: skip
    back = sum(not layer.kept for layer in layers)
    if back:
        progress.warn(f"phase 1 made {back} of {len(layers)} layers worse and was taken back there: {LOWER}")
    evaluations["layerwise"] = measure("layerwise")
    layerwise_kept = distill.probe_kl(student, teacher, corpus.train) <= started
    if not layerwise_kept:
        progress.say("phase 1 brought the layers nearer but not the model: phase 2 starts from the initialisation")
        student = _edited(recipe, teacher, corpus, progress)
    with compute(recipe.compute), progress.phase("model-wise") as on_step:
        outcome = distill.modelwise(
            student, teacher, corpus.train, recipe.modelwise, folder=_made(run / "modelwise"), seed=seed,
            on_step=lambda step, steps, losses: on_step(0, step, steps, losses["kl"]),
        )  # fmt: skip
    if not outcome.kept:
        progress.warn(f"phase 2 made the model worse and was taken back: {LOWER}")
    evaluations["modelwise"] = measure("modelwise")
    progress.say(f"writing {run / 'report.md'}")
    report = write_report(
        run, student, teacher, evaluations, [asdict(layer) for layer in layers], layerwise_kept, asdict(outcome),
        corpus.heldout_bytes, recipe.sequence_length,
    )  # fmt: skip
    if not (run / "student").exists():
        # Every trained bit is kept, so that the folder is what was measured; its card tells what the report does.
        export(student, run / "student", source=recipe.teacher, dtype="float32", run=run)
    return report


@contextmanager
def _told(progress: Progress) -> Iterator[None]:
    """What the library warns of inside (a row on disk that is not what was written) is told as this run's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: progress.warn(str(message))
        yield


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _edited(recipe: Recipe, teacher: Decoder, corpus: Corpus, progress: Progress) -> Decoder:
    """The student as initialised: computed once, then read from the folder."""
    folder = Path(recipe.run) / "edit"
    if not _is_edited(folder, teacher):
        progress.say(f"editing {teacher.config.num_hidden_layers} layers")
        with progress.count("editing", "layers") as on_layer:
            student = edit(teacher, recipe.target, corpus.train, recipe.seed, _made(folder), on_layer)
        write_sealed(folder / "config.json", own_format.raw_config(student.config))
    # Read back even when just made, so that a continued run starts from the very same arrays.
    student = student_of(teacher, _config_in(folder))
    for layer in edited_layers(student.config, teacher.config):
        map_parameters(student.layers[layer].self_attn, layer_path(folder, layer))
    return student


def _config_in(folder: Path) -> DecoderConfig:
    return own_format.decoder_config(read_sealed(folder / "config.json"))


def _is_edited(folder: Path, teacher: Decoder) -> bool:
    """Whether every layer is there; one that was damaged may have been removed."""
    if not (folder / "config.json").exists():
        return False
    edited = edited_layers(_config_in(folder), teacher.config)
    return all(layer_path(folder, layer).exists() for layer in edited)
