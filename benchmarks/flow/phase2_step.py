"""A whole phase-2 step beside the same step in PyTorch: a Qwen3 teacher, an MLA student whose attention trains.

    python benchmarks/flow/phase2_step.py --torch-python /path/to/python     (torch and transformers live there)

Teacher forward, student forward, exact KL over 151,936 tokens, backward and AdamW, in float32, for one row of 1,024
tokens; 8 layers of Qwen3-0.6B's width. Each side has its own process and reads the same random weights. Peers: `eager`,
as most people write it, and `tuned`: sdpa, fused AdamW, an allocator that keeps its memory. Both peers share the frozen
weights between teacher and student, as we do. The checks: KL agrees before the first step and after the last.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, STEPS, RATE = 1024, 4, 1e-4  # the first step warms up
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024,
    "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40_960,
    "attention_bias": False, "tie_word_embeddings": True, "dtype": "float32",
}  # fmt: skip
LATENT: dict[str, Any] = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
TUNED = {"MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1",
         "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # fmt: skip
STAGES = ("teacher", "student", "KL", "backward", "AdamW")


def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CONFIG["vocab_size"], (1, LENGTH)).astype(np.int32)


def busy_seconds() -> tuple[float, float]:
    """Core-seconds worked so far: by everyone on the machine, by this process."""
    user, nice, system, _, _, irq, soft = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    own = resource.getrusage(resource.RUSAGE_SELF)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK"), own.ru_utime + own.ru_stime


def measure(stages: list[Callable[[], Any]], wait: Callable[[], None]) -> dict[str, Any]:
    """Runs the steps; stage 2 returns the step's KL."""
    seconds: list[list[float]] = []
    kl = []
    for step in range(STEPS):
        if step == 1:
            begun, before = time.perf_counter(), busy_seconds()
        marks = [time.perf_counter()]
        for i, stage in enumerate(stages):
            value = stage()
            wait()
            marks.append(time.perf_counter())
            if i == 2:
                kl.append(float(value))
        seconds.append([b - a for a, b in itertools.pairwise(marks)])
    wall, after = time.perf_counter() - begun, busy_seconds()
    timed = seconds[1:]
    return {
        "seconds": statistics.median(map(sum, timed)),
        "stages": [statistics.median(stage) for stage in zip(*timed, strict=True)],
        "kl": kl,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "others": max(0.0, (after[0] - before[0]) - (after[1] - before[1])) / wall,
    }


def write_weights(folder: Path) -> None:
    """teacher/ and student.safetensors: normal numbers of 0.02, norms of 1."""
    from safetensors.numpy import save_file

    from attnedit.checkpoint import save_checkpoint
    from attnedit.models import Decoder
    from attnedit.models.qwen3 import decoder_config
    from attnedit.nn import MLA, MLAConfig, Rope

    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape, np.float32) if len(shape) == 1 else 0.02 * rng.standard_normal(shape, np.float32)

    config = decoder_config(CONFIG)
    teacher = Decoder(config)
    save_checkpoint(folder / "teacher", CONFIG, {f"model.{k}": draw(p.shape) for k, p in teacher.named_parameters()})
    layer = MLA(1024, MLAConfig(num_attention_heads=16, **LATENT), Rope(config.rope, 64))
    names = [(f"layers.{i}.self_attn.{k}", p.shape) for i in range(8) for k, p in layer.named_parameters()]
    save_file({name: draw(shape) for name, shape in names}, folder / "student.safetensors")


def ours(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open

    import attnedit as ae
    from attnedit import ops
    from attnedit.autograd import backward, no_grad
    from attnedit.distill.optimizer import Optimizer
    from attnedit.runtime import get_num_threads, synchronize
    from attnedit.tensor import full

    teacher = ae.load(folder / "teacher")
    student = ae.edit(teacher, ae.MLA(**LATENT, init="random"))
    with safe_open(folder / "student.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            student.set_parameter(name, ae.tensor(file.get_tensor(name), requires_grad=True))
    optimizer = Optimizer({path: p for path, p in student.named_parameters() if p.requires_grad})
    batch, weights = tokens(), full((LENGTH,), 1 / LENGTH)
    now: dict[str, Any] = {}

    def run_teacher() -> None:
        with no_grad():
            now["theirs"] = teacher(batch)

    def run_student() -> None:
        now["ours"] = student(batch)

    def divergence() -> float:
        loss = ops.fused_kl(now.pop("ours"), student.head, now.pop("theirs"), teacher.head, weights).loss
        now["loss"] = loss
        return loss.item()

    result = measure(
        [run_teacher, run_student, divergence, lambda: backward([now.pop("loss")]), lambda: optimizer.step(RATE)],
        synchronize,
    )
    used = ae.show_config().splitlines()
    about = [line for line in used if line.startswith(("instruction", "OpenBLAS", "warning"))]
    return result | {"threads": get_num_threads(), "about": about}


def peer(folder: Path, tuned: bool) -> dict[str, Any]:
    import torch
    import torch.nn.functional as functional
    import transformers
    from safetensors.torch import load_file

    attention = "sdpa" if tuned else "eager"
    teacher = transformers.Qwen3ForCausalLM.from_pretrained(
        folder / "teacher", dtype=torch.float32, attn_implementation=attention
    ).eval()
    theirs = {k: CONFIG[k] for k in CONFIG if k not in ("architectures", "model_type", "head_dim", "dtype")}
    config = transformers.DeepseekV3Config(
        **theirs | LATENT | {"num_key_value_heads": 16, "q_lora_rank": None, "first_k_dense_replace": 8}
    )
    config._attn_implementation = attention
    student = transformers.DeepseekV3ForCausalLM(config)
    trained = {f"model.{name}": tensor for name, tensor in load_file(folder / "student.safetensors").items()}
    shared = dict(teacher.state_dict())
    weights = {name: trained[name] if name in trained else shared[name] for name in student.state_dict()}
    student.load_state_dict(weights, assign=True)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in trained)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True if tuned else None
    )
    batch = torch.from_numpy(tokens()).long()
    now: dict[str, Any] = {}

    def run_teacher() -> None:
        with torch.no_grad():
            now["theirs"] = teacher(batch, use_cache=False).logits[0]

    def run_student() -> None:
        now["ours"] = student(batch, use_cache=False).logits[0]

    def divergence() -> float:
        logs = [functional.log_softmax(now.pop(key), dim=-1) for key in ("ours", "theirs")]
        now["loss"] = functional.kl_div(*logs, reduction="batchmean", log_target=True)
        return float(now["loss"].item())

    def descend() -> None:
        optimizer.step()
        optimizer.zero_grad()

    result = measure([run_teacher, run_student, divergence, lambda: now.pop("loss").backward(), descend], lambda: None)
    about = [
        f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}, transformers {transformers.__version__}"
    ]
    return result | {"threads": torch.get_num_threads(), "about": about}


def in_its_own_process(python: str, role: str, folder: Path, environment: dict[str, str]) -> dict[str, Any] | None:
    """What a role printed last; None where it failed. The environment's OpenBLAS settings are taken away."""
    free = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    done = subprocess.run(
        [python, __file__, "--role", role, "--folder", str(folder)],
        env=free | environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        return None
    found: dict[str, Any] | None = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(torch_python: str | None) -> None:
    held = {key: value for key, value in os.environ.items() if key.startswith("OPENBLAS_")}
    print(f"taken out of the environment: {held or 'nothing'}; load {os.getloadavg()[0]:.2f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        in_its_own_process(sys.executable, "weights", folder, {})
        results: dict[str, dict[str, Any] | None] = {"ours": in_its_own_process(sys.executable, "ours", folder, {})}
        if torch_python is None:
            print("no --torch-python: ours alone")
        else:
            results["eager"] = in_its_own_process(torch_python, "eager", folder, {})
            results["tuned"] = in_its_own_process(torch_python, "tuned", folder, TUNED)
    print(f"| side | seconds | {' | '.join(STAGES)} | peak GiB | KL before, after | threads | cores others took |")
    print("|---" * (len(STAGES) + 6) + "|")
    for side, r in results.items():
        if r is None:
            print(f"| {side} | failed |")
            continue
        stages = " | ".join(f"{s:.3f}" for s in r["stages"])
        kl = f"{r['kl'][0]:.6f}, {r['kl'][-1]:.6f}"
        peak = f"{r['peak'] / 2**30:.2f}"
        print(f"| {side} | {r['seconds']:.3f} | {stages} | {peak} | {kl} | {r['threads']} | {r['others']:.2f} |")
    mine = results.pop("ours")
    for side, r in results.items():
        if mine is None or r is None:
            continue
        apart = max(abs(a / b - 1) for a, b in zip(mine["kl"], r["kl"], strict=True))
        speed, memory = r["seconds"] / mine["seconds"], mine["peak"] / r["peak"]
        print(f"beside {side}: {speed:.2f} x as fast, {memory:.2f} of its memory; KL apart by {apart:.1e} at most")
        assert apart < 1e-3, "the sides do not compute the same"
    print(*(line for r in (mine, *results.values()) if r is not None for line in r["about"]), sep="\n")


ROLES: dict[str, Callable[[Path], dict[str, Any] | None]] = {
    "weights": write_weights,
    "ours": ours,
    "eager": lambda folder: peer(folder, tuned=False),
    "tuned": lambda folder: peer(folder, tuned=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python that has torch and transformers; without it ours alone")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is None:
        compare(options.torch_python)
    else:
        print(json.dumps(ROLES[options.role](options.folder)))


if __name__ == "__main__":
    main()
