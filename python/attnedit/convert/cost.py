"""What a plan adds up: the run folder's bytes, and the kernels of both phases."""

from collections.abc import Iterable
from dataclasses import dataclass

from attnedit.activations import pass_rows
from attnedit.convert.recipe import Recipe
from attnedit.convert.rehearse import Kernels, Rehearsed
from attnedit.distill.budget import Steps
from attnedit.distill.layerwise import PROBE_ROWS
from attnedit.distill.modelwise import PROBE_ROWS as KL_ROWS
from attnedit.distill.moments import kept_numbers
from attnedit.distill.optimizer import Method
from attnedit.models import Decoder, DecoderConfig
from attnedit.nn import GateSWAConfig


@dataclass(frozen=True)
class Disk:
    """Bytes of the run folder at the most of each step; a state is written beside the one it replaces."""

    activations: int  # hidden states in phase 1, gone behind it
    layerwise: int
    modelwise: int
    end: int

    @property
    def most(self) -> int:
        return max(self.layerwise, self.modelwise, self.end)


def disk(
    recipe: Recipe, source: DecoderConfig, target: DecoderConfig, new: dict[int, int], trained: set[str], stored: int
) -> Disk:
    """new: numbers of each edited layer's attention; stored: bytes of a weight in the teacher's files."""
    student = Decoder(target)
    sizes = {path: parameter.size for path, parameter in student.named_parameters()}
    attentions = tuple(f"layers.{i}.self_attn." for i in new)
    changed = sum(  # of gated layers the edit changes o_proj and adds the gate
        student.layers[i].self_attn.o_proj.weight.size + _gate(student, i)
        if isinstance(target.attention[i], GateSWAConfig) else size
        for i, size in new.items()
    )  # fmt: skip
    attention = sum(new.values())
    shapes = {path: parameter.shape for path, parameter in student.named_parameters()}

    def state(paths: Iterable[str], method: Method) -> int:
        """What a phase continues from: the parameters that train, and what the optimizer remembers of them."""
        return sum(4 * (sizes[path] + kept_numbers(shapes[path], method == "soap")) for path in paths)

    layers = ([path for path in sizes if path.startswith(prefix)] for prefix in attentions)
    first = max((state(paths, recipe.layerwise.optimizer) for paths in layers), default=0)
    second = state(trained, recipe.modelwise.optimizer)
    length, hidden = recipe.sequence_length, source.hidden_size
    rows = recipe.layerwise.rows(length) * length
    activations = 2 * rows * hidden * (4 if recipe.layerwise.activations == "float32" else 2)
    exported = sum(n * (4 if path in trained or path.startswith(attentions) else stored) for path, n in sizes.items())
    steps = recipe.modelwise.tokens // length * length
    cached = 4 * steps * hidden if recipe.modelwise.teacher == "cached" else 0
    return Disk(
        activations=activations,
        layerwise=4 * changed + activations + 4 * attention + 2 * first,
        modelwise=4 * changed + 4 * attention + 2 * second + cached,
        end=4 * changed + 4 * attention + second + exported,
    )


def _gate(student: Decoder, layer: int) -> int:
    gate = getattr(student.layers[layer].self_attn, "g_proj", None)
    return 0 if gate is None else int(gate.weight.size)


@dataclass(frozen=True)
class Work:
    """Kernels of both phases: those of a step so many times, and what is computed once for each pass of rows."""

    layers: list[tuple[Kernels, float]]  # phase 1: what layers learn, each alone
    teacher: list[tuple[Kernels, float]]  # phase 1: the teacher's turns, one after the other
    modelwise: list[tuple[Kernels, float]]
    evaluation: Kernels  # of one held-out row of the longest length

    @property
    def layerwise_flops(self) -> float:
        return _flops(self.layers + self.teacher)

    @property
    def modelwise_flops(self) -> float:
        return _flops(self.modelwise)

    def evaluations(self, rows: float) -> list[tuple[Kernels, float]]:
        return [(self.evaluation, rows)]

    def evaluation_flops(self, rows: float) -> float:
        return _flops(self.evaluations(rows))


def work(
    recipe: Recipe, kinds: list[tuple[Rehearsed, list[int]]], edited: list[int], together: Rehearsed,
    comparison: Kernels, evaluation: Kernels, first: Steps, second: Steps,
) -> Work:  # fmt: skip
    """kinds: every kind of layer, and which layers are of it; comparison: of teacher and student on one row."""
    rows, later = recipe.layerwise.rows(recipe.sequence_length), second.steps * second.rows
    per_pass = min(rows, pass_rows(recipe.sequence_length))
    probes = 3 * min(PROBE_ROWS, rows) / per_pass  # before, behind, and what is kept
    learnt: list[tuple[Kernels, float]] = []
    turns: list[tuple[Kernels, float]] = []
    cached: list[tuple[Kernels, float]] = []
    for kind, layers in kinds:
        learning = len(set(layers) & set(edited))
        learnt += [(kind.step, learning * first.steps), (kind.probe, learning * probes)]
        passed = sum(layer <= max(edited, default=-1) for layer in layers)
        turns.append((kind.teacher, passed * rows / per_pass))
        cached.append((kind.teacher, len(layers) * later / per_pass))
    steps = [(together.step, float(second.steps)), (comparison, 2.0 * min(KL_ROWS, later))]
    modelwise = [*steps, *(cached if recipe.modelwise.teacher == "cached" else [])]
    return Work(learnt, turns, modelwise, evaluation)


def evaluated_rows(heldout: float) -> float:
    """Of a conversion that evaluates so many behind the edit and each phase, and some to train on around phase 1."""
    return 3 * heldout + 2 * KL_ROWS


def _flops(parts: list[tuple[Kernels, float]]) -> float:
    return sum(times * sum(flops for _, flops, _ in kernels) for kernels, times in parts)
