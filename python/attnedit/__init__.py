"""attnedit: edit a trained language model's attention into MLA or gated sliding-window attention, on a CPU.

teacher = ae.load("Qwen3-0.6B")
student = ae.edit(teacher, ae.MLA(kv_lora_rank=512), calibration=tokens)
ae.distill.layerwise(student, teacher, tokens)
ae.distill.modelwise(student, teacher, tokens)
report = ae.evaluate(student, teacher, heldout)
ae.export(student, "out/")
"""

from attnedit import distill, notebook
from attnedit.compute import compute
from attnedit.convert.corpus import corpus
from attnedit.convert.plan import plan
from attnedit.convert.recipe import Data, Recipe, read_recipe
from attnedit.data import Tokenizer
from attnedit.edit import MLA, GateSWA, edit
from attnedit.evaluate import evaluate, evaluate_tasks
from attnedit.export import export
from attnedit.generate import generate
from attnedit.models import Decoder, load
from attnedit.profile import profile
from attnedit.runtime import set_num_threads, show_config
from attnedit.tensor import Tensor, tensor

__version__ = "0.1.0"
__all__ = [
    "MLA",
    "Data",
    "Decoder",
    "GateSWA",
    "Recipe",
    "Tensor",
    "Tokenizer",
    "compute",
    "corpus",
    "distill",
    "edit",
    "evaluate",
    "evaluate_tasks",
    "export",
    "generate",
    "load",
    "notebook",
    "plan",
    "profile",
    "read_recipe",
    "set_num_threads",
    "show_config",
    "tensor",
]
