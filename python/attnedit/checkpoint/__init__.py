"""Hugging Face folders in and out: config.json and safetensors <-> names and arrays. Knows no model.

Weights are only ever read from safetensors, memory-mapped and checked; everything written appears under its final name
whole or not at all.
"""

from attnedit.checkpoint.atomic import atomic_write
from attnedit.checkpoint.folder import Checkpoint
from attnedit.checkpoint.json_object import read_lines, read_object
from attnedit.checkpoint.pages import announce, give_back
from attnedit.checkpoint.safetensors_file import read_arrays
from attnedit.checkpoint.save import save_checkpoint, write_arrays
from attnedit.checkpoint.sealed import read_sealed, write_sealed
from attnedit.checkpoint.sums import compare_sums, write_sums
from attnedit.foreign import require_inside

__all__ = [
    "Checkpoint",
    "announce",
    "atomic_write",
    "compare_sums",
    "give_back",
    "read_arrays",
    "read_lines",
    "read_object",
    "read_sealed",
    "require_inside",
    "save_checkpoint",
    "write_arrays",
    "write_sealed",
    "write_sums",
]
