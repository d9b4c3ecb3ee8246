"""Trains the embedded teacher from scratch on the standard library's own text, with attnedit's own engine.

    python examples/teacher/make_teacher.py --tokens 24_000_000 --run runs/teacher --out examples/teacher

A small Qwen3 (QK-norm, grouped-query attention), byte-level BPE of 2,048 tokens. Killed, the same command continues.
Prints the held-out loss and appends the run's curve to training_log.jsonl in the output folder.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[1]))
import stdlib_text

import attnedit as ae
from attnedit import ops
from attnedit.autograd import no_grad
from attnedit.checkpoint import save_checkpoint
from attnedit.distill.loop import Losses, Metrics, Saved, descend, train
from attnedit.distill.optimizer import Optimizer
from attnedit.distill.schedule import Schedule
from attnedit.models import Decoder, qwen3
from attnedit.tensor import full

END = "<|endoftext|>"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 432,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "max_position_embeddings": 1024,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
}


def make_tokenizer(texts: list[str], folder: Path) -> Tokenizer:
    """Byte-level BPE; every document begins with <|endoftext|>."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}, indent=1)
    )
    return tokenizer


def initialise(model: Decoder, seed: int) -> dict[str, ae.Tensor]:
    """N(0, 0.02), norms 1, and the projections into the residual stream smaller by its depth, as GPT-2."""
    rng = np.random.default_rng(seed)
    for path, parameter in list(model.named_parameters()):
        if len(parameter.shape) == 1:
            values = np.ones(parameter.shape)
        else:
            values = rng.normal(0, 0.02, parameter.shape)
            if path.endswith(("o_proj.weight", "down_proj.weight")):
                values /= math.sqrt(2 * len(model.layers))
        model.set_parameter(path, ae.tensor(values, requires_grad=True))
    return dict(model.named_parameters())


def bits_per_byte(model: Decoder, tokenizer: Tokenizer, texts: list[str], length: int) -> tuple[float, float]:
    """Held-out nats per token and bits per byte: each document from its start, in pieces of `length` tokens."""
    nats, tokens, size = 0.0, 0, 0
    for text in texts:
        ids = np.array(tokenizer.encode(text).ids, np.int32)
        size += len(text.encode())
        for start in range(0, len(ids) - 1, length):
            piece = ids[start : start + length + 1]
            count = len(piece) - 1
            with no_grad():
                result = ops.cross_entropy(model(piece[None, :-1]), model.head, piece[1:], full((count,), 1 / count))
            nats += float(result.nll.numpy().sum())
            tokens += count
    return nats / tokens, nats / math.log(2) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=lambda text: int(text.replace("_", "")), required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    texts = stdlib_text.documents()
    training = [text for name, text in texts.items() if not stdlib_text.is_heldout(name)]
    heldout = [text for name, text in texts.items() if stdlib_text.is_heldout(name)]
    made = options.run / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(made)) if made.exists() else make_tokenizer(training, options.run)
    stream = np.concatenate([np.array(e.ids, np.int32) for e in tokenizer.encode_batch(training)])
    T, B = options.length, options.rows
    print(f"{len(stream):,} tokens, {sum(len(t.encode()) for t in training) / len(stream):.2f} bytes each")

    model = Decoder(qwen3.decoder_config(CONFIG))
    optimizer = Optimizer(initialise(model, options.seed), weight_decay=0.1, clip=1.0)
    steps = options.tokens // (T * B)
    weights = full((B * T,), 1 / (B * T))

    def losses_of(step: int) -> Losses:
        starts = np.random.default_rng((options.seed, step)).integers(0, len(stream) - T - 1, B)
        rows = stream[starts[:, None] + np.arange(T + 1)]
        hidden = model(np.ascontiguousarray(rows[:, :-1]))
        labels = np.ascontiguousarray(rows[:, 1:]).reshape(-1)
        return descend({"nll": ops.cross_entropy(hidden, model.head, labels, weights).loss})

    begun, first = time.monotonic(), optimizer.steps

    def on_step(step: int, steps: int, losses: dict[str, float]) -> None:
        if step % 100 == 0 or step == steps:
            rate = (step - first) * B * T / (time.monotonic() - begun)
            print(f"step {step}/{steps}  nll {losses['nll']:.4f}  {rate:,.0f} tokens/s", flush=True)

    print(f"{model.num_parameters():,} parameters, {steps} steps of {B} x {T} tokens")
    schedule = Schedule(options.rate, steps, warmup=0.02, final=0.02)
    train(
        "teacher", losses_of, optimizer, schedule, Saved(options.run), Metrics(options.run / "metrics.jsonl"), on_step
    )

    tensors = {
        qwen3.tensor_name(path): parameter.numpy().astype(ml_dtypes.bfloat16)
        for path, parameter in model.named_parameters()
    }
    files = [options.run / "tokenizer.json", options.run / "tokenizer_config.json"]
    save_checkpoint(options.run / "model", CONFIG, tensors, files, overwrite=True)
    nll, bits = bits_per_byte(ae.load(options.run / "model"), tokenizer, heldout, T)
    print(f"held out, bfloat16, {len(heldout)} files: {nll:.4f} nats/token, {bits:.4f} bits/byte")
    options.out.mkdir(parents=True, exist_ok=True)
    for path in (options.run / "model").iterdir():
        (options.out / path.name).write_bytes(path.read_bytes())
    lines = (options.run / "metrics.jsonl").read_text().splitlines()
    log = [*lines[:: max(1, len(lines) // 200)], json.dumps({"heldout_nll": nll, "heldout_bits_per_byte": bits})]
    (options.out / "training_log.jsonl").write_text("\n".join(log) + "\n")


if __name__ == "__main__":
    main()
