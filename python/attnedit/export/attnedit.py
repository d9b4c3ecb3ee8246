"""format attnedit: our own folder, every layer's attention written out; holds every student exactly.

transformers loads it by the model file that lies in the folder (trust_remote_code) or after `import attnedit.hf`.
"""

from pathlib import Path
from typing import Any

from attnedit.export.keys import Tensors, renamed
from attnedit.models import Decoder, DecoderConfig
from attnedit.models import attnedit as own

MODELING = Path(__file__).parents[1] / "hf" / "modeling_attnedit.py"
FILES = (MODELING,)


def refuse(config: DecoderConfig) -> str | None:
    """Why this format cannot hold the model; None if it can."""
    return None


def raw_config(config: DecoderConfig) -> dict[str, Any]:
    """DecoderConfig -> config.json."""
    return {
        "architectures": ["AttnEditForCausalLM"],
        **own.raw_config(config),
        "auto_map": {
            "AutoConfig": f"{MODELING.stem}.AttnEditConfig",
            "AutoModelForCausalLM": f"{MODELING.stem}.AttnEditForCausalLM",
        },
    }


def tensors(model: Decoder) -> Tensors:
    return renamed(model, own.tensor_name)
