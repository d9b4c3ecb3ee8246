"""Whether a folder holds the model: logits of who reads it beside the model's own, and greedy continuations."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnedit import ops
from attnedit.activations import forward
from attnedit.autograd import no_grad
from attnedit.compute import compute
from attnedit.export import in_transformers
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.pages import give_back_all
from attnedit.tensor import Array, Tensor

ROWS, LONGEST, MOST_POSITIONS, NEW_TOKENS = 2, 2048, 64, 16
TOLERANCE = 1e-3  # of the largest logit: float32 passes of one model differ by less, every wrong key by more


@dataclass(frozen=True)
class Parity:
    """One reader's logits at the probe's positions beside the model's."""

    reader: str
    largest: float  # of the model's logits, absolute
    difference: float  # max over logits, absolute
    kl: float  # KL(model || folder), mean, nats per token
    generation_equal: bool | None = None  # greedy, with the reader's cache

    def line(self) -> str:
        told = (
            f"{self.reader}: logits up to {self.largest:.4g} differ by at most {self.difference:.2g}, KL {self.kl:.2g}"
        )
        if self.generation_equal is None:
            return told
        return f"{told}, greedy generation with cache {'equal' if self.generation_equal else 'DIFFERENT'}"


@dataclass(frozen=True)
class Probe:
    tokens: Array  # int32 [B, T]
    positions: Array  # int64 [P]
    new_tokens: int


def probe_for(config: DecoderConfig) -> Probe:
    """Longer than the longest window up to LONGEST, with the special tokens in the text."""
    windows = [getattr(layer, "sliding_window", None) or 0 for layer in config.attention]
    length = min(config.rope.max_position_embeddings, max(64, min(max(windows) + 32, LONGEST)))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (ROWS, length)).astype(np.int32)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special = [t for t in (config.bos_token_id, config.pad_token_id, *ends) if t is not None and t < config.vocab_size]
    for k, token in enumerate(special):
        tokens[:, (k * 5 + 2) % length] = token
    positions = np.unique(np.linspace(0, length - 1, min(length, MOST_POSITIONS)).astype(np.int64))
    return Probe(tokens, positions, min(NEW_TOKENS, length // 2))


def logits_at(model: Decoder, tokens: Array, positions: Array) -> Array:
    """float32 [B, P, V], computed in float32 whatever the program trains in."""
    with no_grad(), compute("float32"):
        ((hidden,),) = forward([model], [tokens])
        logits = ops.linear(Tensor(np.ascontiguousarray(hidden.numpy()[:, positions])), model.head).numpy()
    give_back_all(model.lm_head or model.embed_tokens)
    return logits


def compared(reader: str, ours: Array, theirs: Array, generation_equal: bool | None = None) -> Parity:
    found, vocabulary = [], ours.shape[-1]
    for one, other in zip(ours.reshape(-1, vocabulary), theirs.reshape(-1, vocabulary), strict=True):
        p, q = (x - x.max() for x in (one.astype(np.float64), other.astype(np.float64)))
        p, q = (x - np.log(np.exp(x).sum()) for x in (p, q))
        found.append([np.abs(one).max(), np.abs(one - other).max(), (np.exp(p) * (p - q)).sum()])
    (largest, difference, _), kl = np.max(found, axis=0), float(np.mean(found, axis=0)[2])
    return Parity(reader, float(largest), float(difference), max(kl, 0.0), generation_equal)


def is_greedy(model: Decoder, tokens: Array, new_tokens: int) -> bool:
    """Whether each of the last new_tokens is one that the model finds most likely, up to rounding."""
    positions = np.arange(len(tokens) - new_tokens - 1, len(tokens) - 1)
    logits = logits_at(model, tokens[None].astype(np.int32), positions)[0]
    chosen = logits[np.arange(new_tokens), tokens[-new_tokens:]]
    return bool((chosen >= logits.max(-1) - TOLERANCE * float(np.abs(logits).max())).all())


def require_transformers(python: str) -> None:
    """Raises before anything is computed if that interpreter has no torch or transformers."""
    names = ("torch", "transformers")
    if python == sys.executable:
        missing = [name for name in names if importlib.util.find_spec(name) is None]
    else:
        code = f"import importlib.util as u; print(*[n for n in {names!r} if u.find_spec(n) is None])"
        try:
            missing = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise ValueError(f"[export] python must be an interpreter, {python} is not: {error}") from None
    if missing:
        raise ValueError(
            f"[export] verify=transformers needs torch and transformers, {python} has no {' and no '.join(missing)}; "
            "pip install 'attnedit[parity]', or name another interpreter with python or ATTNEDIT_PEER_PYTHON"
        )


def examined(folder: Path, probe: Probe, python: str) -> dict[str, Any]:
    """in_transformers.examine, by that interpreter."""
    with tempfile.TemporaryDirectory() as scratch:
        given, found = Path(scratch) / "probe.npz", Path(scratch) / "found.npz"
        np.savez(given, tokens=probe.tokens, positions=probe.positions, new_tokens=probe.new_tokens)
        done = subprocess.run(
            [python, in_transformers.__file__, folder, given, found], capture_output=True, text=True,
            env={**os.environ, "HF_MODULES_CACHE": scratch},
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise RuntimeError(f"[export] transformers does not load the folder: {said[-1]}")
        with np.load(found) as file:
            return dict(file)


def judged(model: Decoder, again: Decoder, probe: Probe, theirs: dict[str, Any]) -> list[Parity]:
    """What transformers makes of a folder, beside the model; again: what we read there.

    Raises RuntimeError where the two readers differ.
    """
    name = f"{theirs['name']}, transformers {theirs['version']}"
    ours, read = (logits_at(m, probe.tokens, probe.positions) for m in (model, again))
    equal = is_greedy(again, theirs["generated"], probe.new_tokens)
    results = []
    for way in ("eager", "sdpa", "cached"):
        generated = equal if way == "cached" else None
        results.append(compared(f"{name}, {way}", ours, theirs[way], generated))
        apart = float(np.abs(read - theirs[way]).max())
        if not apart <= TOLERANCE * float(np.abs(read).max()):
            raise RuntimeError(
                f"[export] {name} ({way}) does not compute what the folder holds: logits differ by {apart:.2g}"
            )
    if not equal:
        raise RuntimeError(f"[export] {name} generates other tokens with its cache than the folder's model")
    return results
