"""What a recipe will cost, from shapes alone: nothing but config.json and the tensors' headers is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnedit import notebook, runtime
from attnedit.activations import PASS_TOKENS
from attnedit.checkpoint import Checkpoint
from attnedit.convert.calibrate import calibrate
from attnedit.convert.cost import Disk, Work, disk, work
from attnedit.convert.recipe import Recipe
from attnedit.convert.rehearse import (
    rehearse_comparison,
    rehearse_edit,
    rehearse_evaluation,
    rehearse_layerwise,
    rehearse_modelwise,
)
from attnedit.distill.budget import Steps, steps_for
from attnedit.distill.modelwise import trained_paths
from attnedit.edit import MLA, GateSWA
from attnedit.edit.gated import AUTO_TOKENS
from attnedit.edit.latent import CALIBRATION_TOKENS
from attnedit.evaluate.cache import cache_size
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.decoder import edited_layers
from attnedit.models.load import read_config
from attnedit.nn import GQAConfig, MLAConfig, Module


def in_bytes(count: float) -> str:
    """In the largest of GiB, MiB and KiB that shows it."""
    unit, size = next((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 1024)) if count >= s or s == 1024)
    return f"{count / size:,.2f} {unit}"


def lines(told: Mapping[str, str]) -> str:
    return "\n".join(f"{name + ':':<28}{text}" for name, text in told.items())


@dataclass(frozen=True)
class Plan:
    """Bytes, floating-point operations and kernels, from shapes: both phases rehearsed (convert/rehearse.py)."""

    source: DecoderConfig
    target: DecoderConfig
    edited_layers: list[int]
    itemsize: int  # bytes of a stored weight
    attention_parameters: int
    layerwise_steps: Steps
    modelwise_steps: Steps
    work: Work
    # Resident at the peak of each: what the process has already, the pool, mapped weights, rows read from disk.
    edit_memory: int
    layerwise_memory: int
    modelwise_memory: int
    disk: Disk

    @property
    def peak_memory(self) -> int:
        return max(self.edit_memory, self.layerwise_memory, self.modelwise_memory)

    @property
    def warning(self) -> str | None:
        """Why the result would be of no use; None where it saves something."""
        longest = self.source.rope.max_position_embeddings
        ours, theirs = self.target.kv_numbers(longest), self.source.kv_numbers(longest)
        if ours < theirs:
            return None
        keys = "kv_lora_rank or qk_rope_head_dim" if self.edits_into_mla else "sliding_window or full_layers"
        return (
            f"the KV cache would not shrink: {ours:,} numbers at {longest:,} tokens, the teacher's has {theirs:,}; "
            f"lower {keys}"
        )

    @property
    def edits_into_mla(self) -> bool:
        return any(isinstance(layer, MLAConfig) for layer in self.target.attention)

    def text(self, context: int) -> str:
        """For people; the cache at `context` tokens."""
        return lines(self._rows(context))

    def _repr_html_(self) -> str:
        return notebook.table("Plan", self._rows(self.source.rope.max_position_embeddings).items())

    def _rows(self, context: int) -> dict[str, str]:
        ours, theirs = (cache_size(config, context).bytes_at_context for config in (self.target, self.source))
        layers = self.source.num_hidden_layers
        first, second, length = self.layerwise_steps, self.modelwise_steps, self.layerwise_steps.sequence_length
        rows = {
            "teacher": repr(Decoder(self.source)),
            "student": repr(Decoder(self.target)),
            "edited layers": f"{len(self.edited_layers)} of {layers}, "
            f"{self.attention_parameters:,} new attention parameters",
            "phase 1": f"{first.steps:,} steps a layer of {first.rows * length:,} tokens, "
            f"{self.work.layerwise_flops / 1e12:,.3g} TFLOP",
            "phase 2": f"{second.steps:,} steps of {second.rows * length:,} tokens, "
            f"{self.work.modelwise_flops / 1e12:,.3g} TFLOP",
            "peak memory": f"edit {in_bytes(self.edit_memory)}, phase 1 {in_bytes(self.layerwise_memory)}, "
            f"phase 2 {in_bytes(self.modelwise_memory)}, mapped weights included",
            "disk": f"{in_bytes(self.disk.most)} at most: phase 1 {in_bytes(self.disk.layerwise)}, "
            f"{in_bytes(self.disk.activations)} of it hidden states, phase 2 {in_bytes(self.disk.modelwise)}; "
            f"{in_bytes(self.disk.end)} in the end",
            f"KV cache at {context:,} tokens": f"{in_bytes(theirs)} -> {in_bytes(ours)} "
            f"({100 * (ours / theirs - 1):+.1f} %)",
        }
        if self.warning is not None:
            rows["warning"] = self.warning
        return rows


def plan(recipe: Recipe) -> Plan:
    """Reads nothing but config.json and the tensors' headers."""
    checkpoint = Checkpoint.open(recipe.teacher)
    source = read_config(checkpoint)
    return plan_for(recipe, source, max(checkpoint.dtype(name).itemsize for name in checkpoint.names()))


def plan_for(recipe: Recipe, source: DecoderConfig, itemsize: int) -> Plan:
    """The plan for a teacher of these shapes whose weights are stored in so many bytes each."""
    recipe = recipe.fitted(source.rope.max_position_embeddings)
    target = target_config(recipe.target, source)
    student, edited = Decoder(target), edited_layers(target, source)
    new = {i: sum(p.size for p in student.layers[i].self_attn.parameters()) for i in edited}
    attention = sum(new.values())
    trained = trained_paths(student, edited, recipe.modelwise)
    length = recipe.sequence_length
    first, second = (steps_for(o.tokens, length, o.batch_tokens) for o in (recipe.layerwise, recipe.modelwise))

    same: dict[tuple[object, ...], list[int]] = {}
    for i in range(source.num_hidden_layers):
        same.setdefault((source.attention[i], target.attention[i], source.sparse(i)), []).append(i)
    kinds = [
        (rehearse_layerwise(source, target, layers[0], first, recipe.layerwise, recipe.compute, itemsize), layers)
        for layers in same.values()
    ]
    together = rehearse_modelwise(source, target, edited, second, recipe.modelwise, recipe.compute, itemsize)
    comparison = rehearse_comparison(source, target, length, recipe.compute, itemsize)
    evaluation = rehearse_evaluation(source, target, length, itemsize)
    whole = Decoder(source)

    def mapped(module: Module) -> int:
        return itemsize * sum(parameter.size for parameter in module.parameters())

    largest = max(map(mapped, whole.layers))
    sizes = {path: p.size * itemsize for path, p in student.named_parameters() if path not in trained}
    if recipe.modelwise.recompute:  # a block at a time
        frozen = largest + sum(size for path, size in sizes.items() if not path.startswith("layers."))
    else:
        live = edited if recipe.modelwise.teacher == "live" else []
        frozen = sum(sizes.values()) + sum(mapped(whole.layers[i].self_attn) for i in live)
    now, rows = runtime.resident_memory(), 4 * max(PASS_TOKENS, length) * source.hidden_size
    looked_at = calibration_tokens(recipe.target, source)
    return Plan(
        source=source,
        target=target,
        edited_layers=edited,
        itemsize=itemsize,
        attention_parameters=attention,
        layerwise_steps=first,
        modelwise_steps=second,
        work=work(recipe, kinds, edited, together, comparison, evaluation, first, second),
        edit_memory=now
        + rehearse_edit(source, target, looked_at, length, itemsize)
        + largest
        + start_bytes(recipe.target, source, max(new.values(), default=0), looked_at),
        # a layer of the teacher mapped, and rows on their way from the disk into the pool
        layerwise_memory=now
        + max((kind.memory for kind, layers in kinds if layers[0] in edited), default=0)
        + largest
        + 2 * rows,
        modelwise_memory=now + together.memory + frozen + (2 * rows if recipe.modelwise.teacher == "cached" else 0),
        disk=disk(recipe, source, target, new, trained, itemsize),
    )


def times(recipe: Recipe, planned: Plan, evaluated_rows: float) -> tuple[float, float, float]:
    """Seconds that both phases and the evaluation of so many rows of sequence_length will take here, by kernels that
    run for about 30 seconds."""
    recipe, work = recipe.fitted(planned.source.rope.max_position_embeddings), planned.work
    rates = calibrate(recipe, planned.source, planned.target, planned.edited_layers, planned.itemsize)
    parts = (work.layers + work.teacher, work.modelwise, work.evaluations(evaluated_rows))
    first, second, third = (rate.seconds(part) for rate, part in zip(rates, parts, strict=True))
    return first, second, third


def in_time(seconds: float) -> str:
    """In the largest of days, hours, minutes and seconds that shows it."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
    unit, size = next((u, s) for u, s in units if seconds >= 1.5 * s or s == 1)
    return f"{seconds / size:,.3g} {unit}"


def target_config(target: MLA | GateSWA, source: DecoderConfig) -> DecoderConfig:
    """The student's shapes. Which layers `auto` keeps full is not known yet; how many is."""
    if isinstance(target, MLA):
        return replace(source, attention=target.attention(source))
    full = target.fixed_full_layers(source)
    return replace(
        source, attention=target.attention(source, tuple(range(GateSWA.auto_count(source))) if full is None else full)
    )


def calibration_tokens(target: MLA | GateSWA, source: DecoderConfig) -> int:
    """The tokens of one forward pass while the edit looks at the teacher."""
    if isinstance(target, MLA):
        return CALIBRATION_TOKENS if target.init == "regression" else 0
    return AUTO_TOKENS if target.fixed_full_layers(source) is None else 0


def start_bytes(target: MLA | GateSWA, source: DecoderConfig, new: int, tokens: int) -> int:
    """What numpy holds while it makes one layer's latent start, of `new` numbers: the source's weights widened, and the
    new ones with their copy on the way to the disk; where they are read off the weights or `tokens` activations, a fit
    to tracemalloc's peaks of `regression_latent` at nine shapes (`svd_latent` holds 0.8 to 1.05 of it)."""
    if not isinstance(target, MLA):
        return 0
    hidden, c = source.hidden_size, source.attention[0]
    assert isinstance(c, GQAConfig)
    queries, values = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    weights = 4 * 2 * hidden * (queries + values)
    if target.init == "random":
        return weights + 2 * 4 * new
    return weights + int(8 * hidden * (15.5 * queries + 9 * values - 1.2 * hidden) + 3.7 * 4 * tokens * hidden)
