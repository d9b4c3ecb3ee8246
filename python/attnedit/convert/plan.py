"""What a recipe will cost, from shapes alone: nothing but config.json and the tensors' headers is read."""

from dataclasses import dataclass, replace

from attnedit import notebook
from attnedit.activations import PASS_TOKENS
from attnedit.checkpoint import Checkpoint
from attnedit.convert.recipe import Recipe
from attnedit.distill.budget import Steps, steps_for
from attnedit.edit import MLA, GateSWA
from attnedit.edit.edit import AUTO_TOKENS, CALIBRATION_TOKENS
from attnedit.evaluate.cache import cache_size
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.load import read_config
from attnedit.nn import GateSWAConfig, MLAConfig
from attnedit.runtime import get_num_threads


def in_bytes(count: float) -> str:
    """In the largest of GiB, MiB and KiB that shows it."""
    unit, size = next((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 1024)) if count >= s or s == 1024)
    return f"{count / size:,.2f} {unit}"


@dataclass(frozen=True)
class Plan:
    """Bytes and floating-point operations, from shapes. FLOPs count matrix products and attention, x2 for add."""

    source: DecoderConfig
    target: DecoderConfig
    edited: int
    attention_parameters: int
    layerwise_steps: Steps
    modelwise_steps: Steps
    layerwise_flops: float
    modelwise_flops: float
    edit_memory: int  # at the peak; the mapped weights are counted, though the system may drop them
    layerwise_memory: int
    modelwise_memory: int
    disk: int  # at most
    activations: int  # of the disk, while phase 1 runs

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
        return "\n".join(f"{name + ':':<28}{text}" for name, text in self._rows(context).items())

    def _repr_html_(self) -> str:
        return notebook.table("Plan", self._rows(self.source.rope.max_position_embeddings).items())

    def _rows(self, context: int) -> dict[str, str]:
        ours, theirs = (cache_size(config, context).bytes_at_context for config in (self.target, self.source))
        layers = self.source.num_hidden_layers
        first, second, length = self.layerwise_steps, self.modelwise_steps, self.layerwise_steps.sequence_length
        rows = {
            "teacher": repr(Decoder(self.source)),
            "student": repr(Decoder(self.target)),
            "edited layers": f"{self.edited} of {layers}, {self.attention_parameters:,} new attention parameters",
            "phase 1": f"{first.steps:,} steps a layer of {first.rows * length:,} tokens, "
            f"{self.layerwise_flops / 1e12:,.3g} TFLOP",
            "phase 2": f"{second.steps:,} steps of {second.rows * length:,} tokens, "
            f"{self.modelwise_flops / 1e12:,.3g} TFLOP",
            "peak memory": f"edit {in_bytes(self.edit_memory)}, phase 1 {in_bytes(self.layerwise_memory)}, "
            f"phase 2 {in_bytes(self.modelwise_memory)}, mapped weights included",
            "disk": f"{in_bytes(self.disk)} at most, {in_bytes(self.activations)} of it during phase 1 only",
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
    recipe = recipe.fitted(source.rope.max_position_embeddings)
    target = target_config(recipe.target, source)
    student, layers = Decoder(target), range(source.num_hidden_layers)
    edited = [i for i in layers if source.attention[i] != target.attention[i]]
    new = {i: sum(p.size for p in student.layers[i].self_attn.parameters()) for i in edited}
    attention = sum(new.values())
    everything = sum(p.size for path, p in student.named_parameters() if not student.frozen(path))
    trained = everything if recipe.modelwise.train == "all" else attention
    length = recipe.sequence_length
    first, second = (steps_for(o.tokens, length, o.batch_tokens) for o in (recipe.layerwise, recipe.modelwise))

    weights = sum(array.nbytes for array in checkpoint.tensors.values())
    kept = sum(saved_numbers(target, i) for i in layers) * 4 * second.micro_rows * length
    head = 2 * source.vocab_size * source.hidden_size
    once = sum(forward_flops(source, i, length) + 3 * forward_flops(target, i, length) for i in layers)
    alone = sum(
        forward_flops(source, i, length, mlp=False) + 3 * forward_flops(target, i, length, mlp=False) for i in edited
    )
    fixed = weights + scratch_bytes(source)
    measured = min(PASS_TOKENS, calibration_tokens(recipe.target, source))
    activations = 2 * recipe.layerwise.tokens * source.hidden_size * 4
    return Plan(
        source=source,
        target=target,
        edited=len(edited),
        attention_parameters=attention,
        layerwise_steps=first,
        modelwise_steps=second,
        layerwise_flops=recipe.layerwise.tokens * alone,
        modelwise_flops=recipe.modelwise.tokens * (once + 4 * head),
        # parameter, gradient and two moments of what trains; the start it may go back to
        layerwise_memory=fixed
        + 4 * attention
        + 20 * max(new.values(), default=0)
        + max(
            first.micro_rows * length * 4 * max((saved_numbers(target, i) for i in edited), default=0),
            4 * experts_numbers(source) * max(PASS_TOKENS, length),  # the teacher's, between two layers
        ),
        modelwise_memory=fixed
        + 20 * trained
        + kept
        + 4 * experts_numbers(source, backward=True) * second.micro_rows * length,
        # A forward pass that keeps nothing holds somewhat over half of what the tape would keep of one block.
        edit_memory=fixed
        + 4 * attention
        + 4 * experts_numbers(source) * max(measured, length)
        + int(0.6 * 4 * max(measured, length) * max(saved_numbers(source, i) for i in layers)),
        disk=activations + 4 * student.num_parameters() + 12 * (attention + trained),
        activations=activations,
    )


def target_config(target: MLA | GateSWA, source: DecoderConfig) -> DecoderConfig:
    """The student's shapes. Which layers `auto` keeps full is not known yet; how many is."""
    if isinstance(target, MLA):
        return replace(source, attention=target.attention(source))
    full = target.fixed_full_layers(source)
    return replace(
        source, attention=target.attention(source, tuple(range(GateSWA.auto_count(source))) if full is None else full)
    )


def forward_flops(config: DecoderConfig, layer: int, length: int, mlp: bool = True) -> float:
    """Per token, at a mean context of half the row."""
    c, hidden = config.attention[layer], config.hidden_size
    heads = c.num_attention_heads
    if isinstance(c, MLAConfig):
        key, value = c.qk_nope_head_dim + c.qk_rope_head_dim, c.v_head_dim
        products = hidden * (heads * key + c.kv_lora_rank + c.qk_rope_head_dim)
        products += c.kv_lora_rank * heads * (c.qk_nope_head_dim + value)
        seen = length / 2
    else:
        key = value = c.head_dim
        products = hidden * (heads + 2 * c.num_key_value_heads) * c.head_dim
        seen = min(length / 2, c.sliding_window or length)
    products += heads * value * hidden
    if isinstance(c, GateSWAConfig):
        products += hidden * heads * (1 if c.gate_per == "head" else c.head_dim)
    if mlp and config.moe is not None and config.sparse(layer):
        moe = config.moe
        products += hidden * (moe.num_experts + 3 * moe.num_experts_per_tok * moe.moe_intermediate_size)
    elif mlp:
        products += 3 * hidden * config.intermediate_size
    return 2 * products + 2 * heads * (key + value) * seen


def calibration_tokens(target: MLA | GateSWA, source: DecoderConfig) -> int:
    """The tokens of one forward pass while the edit looks at the teacher."""
    if isinstance(target, MLA):
        return CALIBRATION_TOKENS if target.init == "regression" else 0
    return AUTO_TOKENS if target.fixed_full_layers(source) is None else 0


def scratch_bytes(config: DecoderConfig) -> int:
    """The largest kernels' scratch: the losses' blocks of 512 tokens x 768 logits, packed operands, a product's."""
    hidden = config.hidden_size
    # of every thread that multiplies by an expert: 256 columns of its weight and 1,024 rows, 512 deep
    depth = 0 if config.moe is None else min(512, max(hidden, config.moe.moe_intermediate_size))
    grouped = get_num_threads() * (256 + 1024) * depth
    return 4 * (3 * 512 * 768 + 768 * hidden + 3 * 512 * hidden + grouped) + (4 << 20)


def experts_numbers(config: DecoderConfig, backward: bool = False) -> int:
    """float32 numbers per token that one layer's experts hold, besides what the tape keeps, while they compute."""
    moe, widths = config.moe, 4 if backward else 2
    return 0 if moe is None else moe.num_experts_per_tok * (config.hidden_size + widths * moe.moe_intermediate_size)


def saved_numbers(config: DecoderConfig, layer: int) -> int:
    """float32 numbers per token that the tape keeps of one block."""
    c, hidden = config.attention[layer], config.hidden_size
    heads = c.num_attention_heads
    block = 6 * hidden + 3 * config.intermediate_size
    if config.moe is not None and config.sparse(layer):
        moe = config.moe
        block = 6 * hidden + moe.num_experts + moe.num_experts_per_tok * (2 * moe.moe_intermediate_size + 4)
    if isinstance(c, MLAConfig):
        key = c.qk_nope_head_dim + c.qk_rope_head_dim
        kv = c.qk_nope_head_dim + c.v_head_dim
        return block + heads * (3 * key + kv + 2 * c.v_head_dim) + 2 * (c.kv_lora_rank + c.qk_rope_head_dim)
    norms = 2 if c.qk_norm else 1
    return block + c.head_dim * (heads * (2 + norms) + c.num_key_value_heads * (2 + norms))
