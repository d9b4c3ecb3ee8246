"""Distillation in two phases. `distill` does not know how a student was made.

`layerwise` teaches each new attention from the teacher's own activations; `modelwise` then teaches the whole student
the teacher's next-token distribution. Attention Editing (arXiv 2604.05688).
"""

from attnedit.distill.layerwise import LayerResult, LayerwiseOptions, layerwise
from attnedit.distill.loop import NotFinite
from attnedit.distill.modelwise import ModelwiseOptions, ModelwiseResult, modelwise, probe_kl

__all__ = [
    "LayerResult",
    "LayerwiseOptions",
    "ModelwiseOptions",
    "ModelwiseResult",
    "NotFinite",
    "layerwise",
    "modelwise",
    "probe_kl",
]
