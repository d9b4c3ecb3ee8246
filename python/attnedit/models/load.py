"""A Hugging Face folder -> Decoder: memory-mapped, nothing copied but the norms."""

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from attnedit.checked import shown
from attnedit.checkpoint import Checkpoint, compare_sums, give_back, read_arrays, read_object, require_inside
from attnedit.models.decoder import Decoder, DecoderConfig
from attnedit.models.fused_experts import split_experts
from attnedit.nn import Module
from attnedit.tensor import Array, Tensor, tensor

# What some folders store besides weights: computed again here, or by tied heads the embedding itself.
BUFFERS = (".rotary_emb.inv_freq", "lm_head.weight")
GENERATION = "generation_config.json"
MOST_EXPERTS = 100_000  # of all layers together; each is objects in memory, whatever its size


@cache
def known_model_types() -> list[str]:
    """The families that can be read: the files beside this one that say how a config.json of theirs is read."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return [name for name in names if hasattr(importlib.import_module(f"attnedit.models.{name}"), "decoder_config")]


def family_of(raw: dict[str, Any]) -> ModuleType:
    model_type = raw.get("model_type")
    if model_type not in known_model_types():
        raise ValueError(
            f"[config.json] model_type must be one of {', '.join(known_model_types())}, got {shown(model_type)}"
        )
    return importlib.import_module(f"attnedit.models.{model_type}")


def read_config(checkpoint: Checkpoint) -> DecoderConfig:
    """The model that config.json describes. Raises ValueError where the weights are far too few for it, so that what is
    built from it is never much larger than the files."""
    config: DecoderConfig = family_of(checkpoint.config).decoder_config(checkpoint.config)
    moe, layers, width = config.moe, config.num_hidden_layers, config.hidden_size
    needed, experts = (config.vocab_size + 2 * layers) * width, 0
    if moe is not None:
        experts = sum(map(moe.sparse, range(layers))) * moe.num_experts
        needed += experts * 3 * width * moe.moe_intermediate_size
    if experts > MOST_EXPERTS:
        raise ValueError(f"[config.json] num_experts must be at most {MOST_EXPERTS} in all layers, got {experts}")
    held = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    if held < needed:
        raise ValueError(
            f"[config.json] vocab_size {config.vocab_size}, hidden_size {width}, num_hidden_layers {layers} and "
            f"{experts} experts need more than {needed} numbers, the weights hold {held}"
        )
    return config


def load(folder: str | Path) -> Decoder:
    """Reads a folder of any known model_type. Matrices stay in their storage type, mapped from the file.

    Raises OSError for files that cannot be read and ValueError for contents that do not fit, or that are not what the
    folder's SHA256SUMS says, one line each.
    """
    compare_sums(Path(folder))
    checkpoint = Checkpoint.open(Path(folder))
    family = family_of(checkpoint.config)
    decoder = Decoder(read_config(checkpoint))
    tensors: Mapping[str, Array] = checkpoint.tensors
    if hasattr(family, "unpacked"):  # a family that stores a parameter in another form than the decoder's
        tensors = family.unpacked(decoder.config, tensors)
    set_parameters(decoder, split_experts(tensors, decoder.config), family.tensor_name)
    stored: Any = decoder.embed_tokens.weight.dtype.name
    settings = checkpoint.folder / GENERATION
    require_inside(checkpoint.folder, settings)  # exports repeat what it says
    generation = read_object(settings) if settings.is_file() else {}
    decoder.config = replace(decoder.config, dtype=stored, generation=generation)
    return decoder


def set_parameters(decoder: Decoder, tensors: Mapping[str, Array], tensor_name: Callable[[str], str]) -> None:
    """Points every parameter at its array; all must be there, of the right shape, finite, and no others."""
    surplus = set(tensors) - {tensor_name(path) for path, _ in decoder.named_parameters()}
    surplus = {name for name in surplus if not name.endswith(BUFFERS)}
    if surplus:
        first, more = _plain(min(surplus)), f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
        experts = "" if decoder.config.moe is None else f", num_experts {decoder.config.moe.num_experts}"
        raise ValueError(
            f"[load] every tensor must have its place in the model, tensor {first}{more} has none; "
            f"config.json says num_hidden_layers {decoder.config.num_hidden_layers}{experts}"
        )
    for path, parameter in list(decoder.named_parameters()):
        name = tensor_name(path)
        if name not in tensors:
            raise ValueError(f"[load] tensor {name} of shape {parameter.shape} is missing from the checkpoint")
        array = tensors[name]
        if array.shape != parameter.shape:
            raise ValueError(f"[load] tensor {name} must have shape {parameter.shape}, got {array.shape}")
        if array.dtype.name not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"[load] tensor {name} must be float32, bfloat16 or float16, got {array.dtype}")
        if not all_finite(array):
            raise ValueError(f"[load] tensor {name} holds NaN or Inf")
        decoder.set_parameter(path, tensor(array) if array.ndim == 1 else Tensor(array))


def _plain(name: str) -> str:
    """A tensor's name as it is, where it is what such names are."""
    return name if name.isprintable() and len(name) <= 200 else shown(name)


def map_parameters(module: Module, path: Path) -> None:
    """Points a module's parameters at the arrays of a file that a run stored, where they take no memory.

    Raises ValueError where the file holds what the module has not.
    """
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    for name, array in read_arrays(path).items():
        if array.shape != shapes.get(name):
            raise ValueError(
                f"[load] {path}: tensor {name} must be one of the layer's, {shapes}, got shape {array.shape}"
            )
        module.set_parameter(name, tensor(array) if array.ndim == 1 else Tensor(array))


def all_finite(array: Array) -> bool:
    """Whether no exponent is all ones; by bits, a block at a time, since bfloat16 arithmetic in numpy is slow."""
    unsigned, exponent = {
        "float32": (np.uint32, 0x7F800000), "bfloat16": (np.uint16, 0x7F80), "float16": (np.uint16, 0x7C00)
    }[array.dtype.name]  # fmt: skip
    bits = array.reshape(-1).view(unsigned)
    step = 1 << 22
    for i in range(0, bits.size, step):
        part = bits[i : i + step]
        if ((part & unsigned(exponent)) == exponent).any():
            return False
        give_back(part)  # looking at every number must not leave the whole file in memory
    return True
