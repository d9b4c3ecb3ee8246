"""Decoder -> folder, in any format that can hold it exactly."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Literal

import ml_dtypes
import numpy as np

from attnedit.checkpoint import require_inside, save_checkpoint, write_arrays, write_sums
from attnedit.export.card import licence_files, model_card
from attnedit.export.keys import Tensors
from attnedit.export.parity import (
    Parity,
    compared,
    examined,
    judged,
    logits_at,
    probe_for,
    require_transformers,
)  # fmt: skip
from attnedit.models import Decoder
from attnedit.models.load import GENERATION, load, map_parameters
from attnedit.models.pages import give_back_all
from attnedit.tensor import Array

# What people copy along with weights: the tokenizer's files and the generation settings, as they are.
CARRIED = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
           "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", GENERATION)  # fmt: skip
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
ROUNDING = 1e-4  # of the largest logit: what a format's own rounding in 16 bits may add to that of the weights
_NOT_A_FORMAT = {"__init__", "card", "experts", "export", "grouped", "in_transformers", "keys", "latent", "parity"}


def known_formats() -> list[str]:
    """A file each, beside this one: refuse(config), raw_config(config), tensors(model)."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_A_FORMAT)


def export(
    model: Decoder,
    folder: str | Path,
    format: str = "attnedit",
    source: str | Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    *,
    run: str | Path | None = None,
    verify: Literal["transformers"] | None = None,
    python: str = sys.executable,
    say: Callable[[str], object] = lambda line: None,
    overwrite: bool = False,
) -> Path:
    """Writes model into a new folder, reads it again and compares; only then is it under its name.

    source: the folder whose tokenizer files and licence go along. dtype: what wider weights are rounded to; by default
    what the teacher's are stored in. run: the run folder whose recipe and figures the model card tells.
    verify="transformers": `python` loads the folder in the stock class, logits and greedy generation are compared too.
    say: told every figure. overwrite: the folder may be there already, if it is a checkpoint or empty.
    Raises ValueError where the format cannot hold the model exactly, saying why and which formats can.
    """
    dtype = dtype or model.config.dtype
    if dtype not in DTYPES:
        raise ValueError(f"[export] dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if verify not in (None, "transformers"):
        raise ValueError(f"[export] verify must be transformers or nothing, got {verify!r}")
    writer = _format(format)
    reason = writer.refuse(model.config)
    if reason is not None:
        able = [name for name in known_formats() if _format(name).refuse(model.config) is None]
        raise ValueError(f"[export] {format} cannot hold this model: {reason}; {', '.join(able)} can")
    if verify is not None:
        require_transformers(python)
    raw = writer.raw_config(model.config) | {"dtype": dtype, "torch_dtype": dtype}
    files = [*getattr(writer, "FILES", ())]
    if source is not None:
        carried = [Path(source) / name for name in CARRIED if (Path(source) / name).exists()]
        carried += licence_files(Path(source))
        for path in carried:
            require_inside(Path(source), path)
        files += carried

    def finish(written: Path) -> None:
        figures = _checked(model, written, dtype, format)
        if verify is not None:
            probe = probe_for(model.config)
            figures += judged(model, load(written), probe, examined(written, probe, python))
        for figure in figures:
            say(figure.line())
        generation = written / GENERATION
        if not generation.exists():
            ids = {key: getattr(model.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
            generation.write_text(json.dumps(ids | dict(model.config.generation), indent=2) + "\n", "utf-8")
        loader = getattr(writer, "LOADER", "AutoModelForCausalLM")
        card = model_card(model.config, Path(folder).name, format, raw, loader, dtype, figures, source, run)
        (written / "README.md").write_text(card, "utf-8")
        write_sums(written)

    save_checkpoint(
        folder, raw, _Rounded(writer.tensors(model), DTYPES[dtype]), files, overwrite=overwrite, check=finish,
        behind_shard=partial(give_back_all, model),
    )  # fmt: skip
    return Path(folder)


def export_run_or_folder(
    model: str | Path,
    folder: str | Path,
    format: str,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    verify: Literal["transformers"] | None = None,
    python: str = sys.executable,
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """export of a finished run's student, or of the model in any folder that loads."""
    student = Path(model) / "student" if (Path(model) / "provenance.json").is_file() else Path(model)
    finished = student.name == "student" and (student.parent / "report.json").is_file()
    if not (student / "config.json").is_file() and student != Path(model):
        raise FileNotFoundError(f"[export] {model} is a run without a student yet: the convert command finishes it")
    run = student.parent if finished else None
    return export(load(student), folder, format, student, dtype, run=run, verify=verify, python=python, say=say)


class _Rounded(Mapping[str, Array]):
    """The format's tensors, made when asked for. One that is stored in 16 bits already keeps its bits."""

    def __init__(self, made: Tensors, dtype: type) -> None:
        self._made, self._dtype = made, dtype

    def __getitem__(self, name: str) -> Array:
        array = self._made[name]()
        with np.errstate(over="ignore"):  # what does not fit becomes Inf, which reading it again refuses by name
            return array if array.dtype.itemsize == 2 else array.astype(self._dtype, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _format(name: str) -> ModuleType:
    if name not in known_formats():
        raise ValueError(f"[export] format must be one of {', '.join(known_formats())}, got {name!r}")
    return importlib.import_module(f"attnedit.export.{name}")


def _checked(model: Decoder, written: Path, dtype: str, format: str) -> list[Parity]:
    """The folder, read by another path than wrote it, beside the model. All of the difference must be the rounding of
    the model's own weights: a format that stores them in another form may round more."""
    again, probe = load(written), probe_for(model.config)
    read, ours = (logits_at(m, probe.tokens, probe.positions) for m in (again, model))
    rounded = ours
    if dtype != "float32":
        with TemporaryDirectory(dir=written) as scratch:
            rounded = logits_at(_rounded(model, dtype, Path(scratch)), probe.tokens, probe.positions)
    apart, allowed = float(np.abs(read - rounded).max()), ROUNDING * float(np.abs(rounded).max())
    if not apart <= allowed:
        if dtype != "float32":
            raise ValueError(
                f"[export] {format} cannot hold this model in {dtype}: the form it stores weights in rounds them more "
                f"than {dtype} does, logits by {apart:.2g}; float32 can"
            )
        raise RuntimeError(f"[export] the folder read back differs: logits by {apart:.2g}, allowed {allowed:.2g}")
    return [compared("attnedit", ours, read)]


def _rounded(model: Decoder, dtype: str, folder: Path) -> Decoder:
    """The model with its float32 weights rounded: in files of folder, a module each, so that they take no memory. What
    is stored in 16 bits is shared."""
    made = Decoder(model.config)
    for path, parameter in model.named_parameters():
        made.set_parameter(path, parameter)
    rooms = {"embed_tokens": made.embed_tokens, "norm": made.norm, "lm_head": made.lm_head}
    for name, room in {**rooms, **{f"{i}": block for i, block in enumerate(made.layers)}}.items():
        wide = {p: t.numpy() for p, t in room.named_parameters() if t.dtype.itemsize > 2} if room is not None else {}
        if room is None or not wide:
            continue
        with np.errstate(over="ignore"):
            write_arrays(folder / f"{name}.safetensors", {p: a.astype(DTYPES[dtype]) for p, a in wide.items()})
        map_parameters(room, folder / f"{name}.safetensors")
        give_back_all(model)
    return made
