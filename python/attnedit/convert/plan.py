"""What a recipe will cost, from shapes alone: nothing but config.json and the tensors' headers is read."""

from dataclasses import replace

from attnedit.checkpoint import Checkpoint
from attnedit.convert.recipe import Recipe
from attnedit.distill.budget import MICRO_BATCH_TOKENS, steps_for
from attnedit.edit import MLA, GateSWA
from attnedit.evaluate.cache import cache_size
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.load import family_of
from attnedit.nn import GateSWAConfig, MLAConfig

GIB = 2**30


def plan(recipe: Recipe, context: int) -> str:
    """A text for people. FLOPs count multiplications and additions of the matrix products and of attention."""
    checkpoint = Checkpoint.open(recipe.teacher)
    source = family_of(checkpoint.config).decoder_config(checkpoint.config)
    recipe = recipe.fitted(source.rope.max_position_embeddings)
    target = target_config(recipe.target, source)
    teacher, student = Decoder(source), Decoder(target)
    edited = [i for i, pair in enumerate(zip(source.attention, target.attention, strict=True)) if pair[0] != pair[1]]
    attention = sum(p.size for i in edited for p in student.layers[i].self_attn.parameters())
    trained = student.num_parameters() if recipe.modelwise.train == "all" else attention
    length = recipe.sequence_length
    first, second = (steps_for(o.tokens, length, o.batch_tokens) for o in (recipe.layerwise, recipe.modelwise))
    tokens = second.micro_rows * length

    weights = sum(array.nbytes for array in checkpoint.tensors.values())
    layer_tokens = min(recipe.layerwise.tokens, 1 << 62)
    per_token = sum(saved_numbers(target, i) for i in range(target.num_hidden_layers)) * 4
    one_layer = max((sum(p.size for p in student.layers[i].self_attn.parameters()) for i in edited), default=0)
    phase1 = weights + 4 * attention + 16 * one_layer + 2 * MICRO_BATCH_TOKENS * source.hidden_size * 4
    phase2 = weights + 20 * trained + tokens * per_token
    flops1 = layer_tokens * sum(
        forward_flops(target, i, length, mlp=False) * 3 + forward_flops(source, i, length, mlp=False) for i in edited
    )
    head = 2 * source.vocab_size * source.hidden_size
    body = sum(forward_flops(source, i, length) for i in range(source.num_hidden_layers))
    own = sum(forward_flops(target, i, length) for i in range(source.num_hidden_layers))
    flops2 = recipe.modelwise.tokens * (body + 3 * own + 4 * head)
    activations = 2 * layer_tokens * source.hidden_size * 4
    disk = activations + 4 * student.num_parameters() + 12 * (attention + trained)
    rows: list[tuple[str, str]] = [
        ("teacher", repr(teacher)),
        ("student", repr(student)),
        ("edited layers", f"{len(edited)} of {source.num_hidden_layers}, {attention:,} new attention parameters"),
        ("phase 1", f"{first.steps:,} steps a layer of {first.rows * length:,} tokens, {flops1 / 1e12:,.1f} TFLOP"),
        ("phase 2", f"{second.steps:,} steps of {second.rows * length:,} tokens, {flops2 / 1e12:,.1f} TFLOP"),
        ("peak memory", f"phase 1 {phase1 / GIB:.2f} GiB, phase 2 {phase2 / GIB:.2f} GiB, mapped weights included"),
        ("disk", f"{disk / GIB:.2f} GiB at most, of which {activations / GIB:.2f} GiB of activations during phase 1"),
    ]
    ours, theirs = (cache_size(config, context).bytes_at_context for config in (target, source))
    change = f"{theirs / 2**20:,.1f} MiB -> {ours / 2**20:,.1f} MiB ({100 * (ours / theirs - 1):+.1f} %)"
    rows.append((f"KV cache at {context:,} tokens", change))
    return "\n".join(f"{name + ':':<28}{text}" for name, text in rows)


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
    if mlp:
        products += 3 * hidden * config.intermediate_size
    return 2 * products + 2 * heads * (key + value) * seen


def saved_numbers(config: DecoderConfig, layer: int) -> int:
    """float32 numbers per token that the tape keeps of one block."""
    c, hidden = config.attention[layer], config.hidden_size
    heads = c.num_attention_heads
    block = 6 * hidden + 3 * config.intermediate_size
    if isinstance(c, MLAConfig):
        key = c.qk_nope_head_dim + c.qk_rope_head_dim
        kv = c.qk_nope_head_dim + c.v_head_dim
        return block + heads * (3 * key + kv + 2 * c.v_head_dim) + 2 * (c.kv_lora_rank + c.qk_rope_head_dim)
    norms = 2 if c.qk_norm else 1
    return block + c.head_dim * (heads * (2 + norms) + c.num_key_value_heads * (2 + norms))
