"""The edit: which layer becomes what, and the initialisation of the new attention from the old."""

from attnedit.edit.edit import edit
from attnedit.edit.student import layer_path, student_of
from attnedit.edit.targets import MLA, GateSWA

__all__ = ["MLA", "GateSWA", "edit", "layer_path", "student_of"]
