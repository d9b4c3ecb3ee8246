"""What every edit does: the student shares what it keeps, and what is new is checked and lies in memory or in files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from attnedit.checkpoint import write_arrays
from attnedit.models import Decoder, DecoderConfig
from attnedit.models.load import map_parameters
from attnedit.tensor import Array, tensor

OnLayer: TypeAlias = Callable[[int, int], None]  # (layers done, of how many; with "auto" candidates tried)


def student_of(teacher: Decoder, config: DecoderConfig) -> Decoder:
    """A decoder that shares the teacher's parameters wherever path and shape are the same; the others are unset."""
    student = Decoder(config)
    shapes = {path: parameter.shape for path, parameter in student.named_parameters()}
    for path, parameter in teacher.named_parameters():
        if shapes.get(path) == parameter.shape:
            student.set_parameter(path, parameter)
    return student


def layer_path(folder: Path, layer: int) -> Path:
    """Where the new arrays of a layer are kept."""
    return folder / f"layer_{layer:03d}.safetensors"


def set_attention(student: Decoder, layer: int, arrays: Mapping[str, Array], folder: Path | None) -> None:
    attention, weights = student.layers[layer].self_attn, {f"{name}.weight": array for name, array in arrays.items()}
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"[edit] layer {layer}: {name} would hold NaN or Inf: the teacher's numbers overflow")
    if folder is not None:
        write_arrays(layer_path(folder, layer), weights)
        map_parameters(attention, layer_path(folder, layer))
        return
    for name, array in weights.items():
        attention.set_parameter(name, tensor(array))
