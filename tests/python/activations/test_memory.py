"""What passes through a mapped model layer by layer takes the memory of one layer, however many there are."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tiny import tiny_config

from attnedit.checkpoint import save_checkpoint
from attnedit.models import Decoder
from attnedit.nn import GQAConfig

HIDDEN, WIDTH = 512, 20_000
LAYER_BYTES = 3 * HIDDEN * WIDTH * 2  # 61 MB of MLP in bfloat16

# VmHWM is the most that was resident, mapped files included; writing 5 to clear_refs begins it anew.
PROGRAM = """
import json, re, sys
from pathlib import Path
import numpy as np
import attnedit as ae
from attnedit.distill import LayerwiseOptions, ModelwiseOptions, layerwise, modelwise, probe_kl
folder = Path(sys.argv[1])
def peak():
    kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    Path("/proc/self/clear_refs").write_text("5")
    return kib * 1024
rows = np.random.default_rng(0).integers(0, 37, (4, 32)).astype(np.int32)
start, peaks = peak(), {}
teacher = ae.load(folder / "teacher")
peaks["load"] = peak()
student = ae.edit(teacher, ae.MLA(kv_lora_rank=64, init="random"), folder=folder / "edit")
peaks["edit"] = peak()
layerwise(student, teacher, rows, LayerwiseOptions(tokens=128, learning_rate=1e-3), folder=folder / "layerwise")
peaks["layerwise"] = peak()
probe_kl(student, teacher, rows)
ae.evaluate(student, teacher, list(rows))
peaks["evaluate"] = peak()
options = ModelwiseOptions(tokens=128, learning_rate=1e-3, recompute=True, teacher=sys.argv[2], feature_weight=0)
modelwise(student, teacher, rows, options, folder=folder / "modelwise")
peaks["modelwise"] = peak() - sum(4 * 4 * p.size for block in student.layers for p in block.self_attn.parameters())
print(json.dumps(peaks))
"""


# The student is read from its folder, as in a conversion; its shards are smaller than a layer.
EXPORT = """
import sys
from pathlib import Path
import attnedit as ae
from attnedit.checkpoint import save_checkpoint
from attnedit.models.load import map_parameters
from attnedit.runtime import peak_resident_memory
folder, format, dtype = Path(sys.argv[1]), *sys.argv[2:]
save_checkpoint.__kwdefaults__["shard_bytes"] = 1 << 24
teacher = ae.load(folder / "teacher")
student = ae.edit(teacher, ae.MLA(kv_lora_rank=64, init="random"), folder=folder / "edit")
peak_resident_memory(reset=True)
ae.export(student, folder / "student", format, dtype=dtype)
print(peak_resident_memory())
"""


def write_deep(folder: Path, layers: int, heads: int = 4, width: int = WIDTH) -> None:
    attention = GQAConfig(heads, heads // 2, 64, qk_norm=True)
    config = tiny_config(hidden_size=HIDDEN, intermediate_size=width, attention=(attention,) * layers)
    raw = {
        "model_type": "qwen3", "vocab_size": 37, "hidden_size": HIDDEN, "intermediate_size": width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": 64,
        "max_position_embeddings": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    some = (0.03 * np.random.default_rng(layers).normal(size=1_000_003)).astype(ml_dtypes.bfloat16)
    tensors = {
        f"model.{path}": np.resize(some, p.shape) if len(p.shape) > 1 else np.ones(p.shape, some.dtype)
        for path, p in Decoder(config).named_parameters()
    }
    save_checkpoint(folder, raw, tensors)


def measured(folder: Path, layers: int, teacher: str) -> dict[str, int]:
    write_deep(folder / "teacher", layers)
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder, teacher], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of resident memory")
@pytest.mark.parametrize("teacher", ["live", "cached"])
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path, teacher: str) -> None:
    """But for what trains in phase 2: parameter, gradient and two moments."""
    two, six = measured(tmp_path / "two", 2, teacher), measured(tmp_path / "six", 6, teacher)
    for step in two:
        assert six[step] - two[step] < LAYER_BYTES / 2, (two, six)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of resident memory")
@pytest.mark.parametrize(
    ("format", "dtype"), [("attnedit", "float32"), ("attnedit", "bfloat16"), ("deepseek_v3", "float32")]
)
def test_an_export_holds_a_shard_and_no_model(tmp_path: Path, format: str, dtype: str) -> None:
    peaks = {}
    for layers in (2, 8):
        folder = tmp_path / str(layers)
        write_deep(folder / "teacher", layers, heads=32, width=64)
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, folder, format, dtype], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        peaks[layers] = int(done.stdout)
    attention = (folder / "edit" / "layer_000.safetensors").stat().st_size
    assert peaks[8] - peaks[2] < 2 * attention, (peaks, attention)
