"""Decoder -> folder, in any format that can hold it exactly."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Literal

import ml_dtypes
import numpy as np

from attnedit.autograd import no_grad
from attnedit.checkpoint import save_checkpoint
from attnedit.models import Decoder
from attnedit.models.load import load
from attnedit.tensor import Array

# What people copy along with weights: the tokenizer's files and the generation settings, as they are.
CARRIED = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
           "added_tokens.json", "chat_template.jinja", "generation_config.json")  # fmt: skip


DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def known_formats() -> list[str]:
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "export"))


def export(
    model: Decoder,
    folder: str | Path,
    format: str = "attnedit",
    source: str | Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> Path:
    """Writes model into a new folder, reads it again and compares; only then is it under its name.

    source: the teacher's folder, whose tokenizer files are copied along. dtype: what wider weights are rounded to; by
    default what the teacher's are stored in. Raises ValueError where the format cannot hold
    the model exactly, saying why and which formats can.
    """
    dtype = dtype or model.config.dtype
    if dtype not in DTYPES:
        raise ValueError(f"[export] dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    writer = _format(format)
    reason = writer.refuse(model.config)
    if reason is not None:
        able = [name for name in known_formats() if _format(name).refuse(model.config) is None]
        raise ValueError(f"[export] {format} cannot hold this model: {reason}; {', '.join(able)} can")
    raw = writer.raw_config(model.config) | {"dtype": dtype, "torch_dtype": dtype}
    # A tensor that is stored in less than `dtype` already keeps its bits.
    with np.errstate(over="ignore"):  # what does not fit becomes Inf, which reading it again refuses by name
        tensors: dict[str, Array] = {
            writer.tensor_name(path): p.numpy() if p.nbytes // max(p.size, 1) == 2 else p.numpy().astype(DTYPES[dtype])
            for path, p in model.named_parameters()
        }
    files = [Path(source) / name for name in CARRIED if (Path(source) / name).exists()] if source is not None else []
    folder = Path(folder)
    save_checkpoint(
        folder, raw, tensors, files, check=lambda written: _compare(model, load(written), exact=dtype == "float32")
    )
    return folder


def _format(name: str) -> ModuleType:
    if name not in known_formats():
        raise ValueError(f"[export] format must be one of {', '.join(known_formats())}, got {name!r}")
    return importlib.import_module(f"attnedit.export.{name}")


def _compare(model: Decoder, again: Decoder, exact: bool) -> None:
    """The re-read model gives the same logits; in 16 bits, logits near enough to be a rounding of these."""
    count = min(64, model.config.rope.max_position_embeddings)
    tokens = (np.arange(count, dtype=np.int64) * 7919 % model.config.vocab_size).astype(np.int32)[None]
    with no_grad():
        ours, theirs = model.logits(tokens).numpy(), again.logits(tokens).numpy()
    worst, allowed = float(np.abs(ours - theirs).max()), 0.0 if exact else 0.1 * float(np.abs(ours).max())
    if not worst <= allowed:
        raise RuntimeError(f"[export] the folder read back differs: logits by {worst}, allowed {allowed}")
