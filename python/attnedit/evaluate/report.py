"""The report of a run: report.json for programs, report.md and plots for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnedit.checkpoint import atomic_write, write_sealed
from attnedit.evaluate.cache import cache_size
from attnedit.evaluate.plots import write_plots
from attnedit.models import Decoder
from attnedit.nn import GateSWAConfig

PHASES = ("initial", "layerwise", "modelwise")


def write_report(
    run: Path,
    student: Decoder,
    teacher: Decoder,
    evaluations: Mapping[str, Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    layerwise_kept: bool,
    modelwise: Mapping[str, Any],
    heldout_bytes: int,
    context: int,
) -> dict[str, Any]:
    """evaluations: a Comparison after each phase; layers, modelwise: what the phases did; layerwise_kept: whether phase
    2 started from what phase 1 did; context: tokens in a row. Writes into run, returns report.json."""
    last = evaluations["modelwise"]
    bits = last["tokens"] / math.log(2) / max(heldout_bytes, 1)  # nats per token -> bits per byte of the same text

    def by_phase(key: str) -> dict[str, float]:
        return {phase: evaluations[phase][key] for phase in PHASES}

    caches = {name: asdict(cache_size(m.config, context)) for name, m in (("teacher", teacher), ("student", student))}
    gated = any(isinstance(layer, GateSWAConfig) for layer in student.config.attention)
    report = {
        "teacher": {
            "nll": last["teacher_nll"],
            "bits_per_byte": last["teacher_nll"] * bits,
            "parameters": teacher.num_parameters(),
            "tokens_per_second": last["teacher_tokens_per_second"],
        },
        "student": {
            "nll": by_phase("student_nll"),
            "bits_per_byte": {phase: evaluations[phase]["student_nll"] * bits for phase in PHASES},
            "parameters": student.num_parameters(),
            "tokens_per_second": last["student_tokens_per_second"],
        },
        "kl": by_phase("kl"),
        "top1_agreement": by_phase("top1_agreement"),
        "kv_bytes_per_token": {name: cache["bytes_per_token"] for name, cache in caches.items()},
        "kv_cache": caches,
        "tokens": {
            "layerwise": max((layer["steps"] * layer["rows"] for layer in layers), default=0) * context,  # a layer
            "modelwise": modelwise["steps"] * modelwise["rows"] * context,
            "heldout_predictions": last["tokens"],
        },
        "context": {"early": last["early"], "late": last["late"]},
        "full_layers": student.config.full_layers if gated else None,
        "layers": list(layers),
        "layerwise_kept": layerwise_kept,
        "modelwise": dict(modelwise),
        "curves": {key: last[key] for key in last if key.endswith("_by_position") or key == "positions"},
    }
    plots = write_plots(run, report)
    write_sealed(run / "report.json", report)
    atomic_write(run / "report.md", markdown(run.name, report, plots))
    return report


def saved(report: Mapping[str, Any]) -> float:
    """The share of the teacher's cache that the student saves at the report's context."""
    caches = report["kv_bytes_per_token"]
    return 1 - float(caches["student"]) / float(caches["teacher"])


ROWS = (
    ("NLL, nats/token", "teacher.nll", "student.nll", "{:.4f}"),
    ("bits/byte", "teacher.bits_per_byte", "student.bits_per_byte", "{:.4f}"),
    ("KL to the teacher, nats/token", None, "kl", "{:.4f}"),
    ("top-1 agreement", None, "top1_agreement", "{:.3f}"),
)


def _at(report: Mapping[str, Any], path: str) -> Any:
    value: Any = report
    for key in path.split("."):
        value = value[key]
    return value


def markdown(name: str, report: Mapping[str, Any], plots: Sequence[str]) -> str:
    caches = report["kv_cache"]
    context = caches["teacher"]["context"]
    lines = [
        f"# {name}",
        "",
        f"Held-out text: {report['tokens']['heldout_predictions']:,} predicted tokens. "
        f"KV cache {-100 * saved(report):+.1f} % at {context:,} tokens.",
        "",
        "| | teacher | as initialised | after phase 1 (layer-wise) | after phase 2 (model-wise) |",
        "|---|---|---|---|---|",
    ]
    for title, ours, theirs, form in ROWS:
        first = form.format(_at(report, ours)) if ours else ""
        rest = " | ".join(form.format(_at(report, theirs)[phase]) for phase in PHASES)
        lines.append(f"| {title} | {first} | {rest} |")
    lines += ["", "| | teacher | student |", "|---|---|---|"]
    for title, key, form in (
        (f"KV cache, bytes/token at {context:,}", "bytes_per_token", "{:,.0f}"),
        (f"KV cache at {context:,} tokens, bytes", "bytes_at_context", "{:,}"),
        ("KV cache, bytes/token, long context", "bytes_per_token_asymptotic", "{:,.0f}"),
    ):
        lines.append(f"| {title} | {form.format(caches['teacher'][key])} | {form.format(caches['student'][key])} |")
    for title, key, form in (
        ("parameters", "parameters", "{:,}"),
        ("forward, tokens/s", "tokens_per_second", "{:,.0f}"),
    ):
        pair = (form.format(report[name][key]) for name in ("teacher", "student"))
        lines.append(f"| {title} | " + " | ".join(pair) + " |")
    lines += ["", *_context(report), "", *_training(report, context)]
    lines += [
        "",
        "## Layers",
        "",
        "Teacher-forced error of the attention output over its energy; 1 is a zero output.",
        "",
    ]
    lines += ["| layer | as initialised | after phase 1 | learning rate | |", "|---|---|---|---|---|"]
    for layer in report["layers"]:
        rate = "" if layer["learning_rate"] is None else f"{layer['learning_rate']:.2e}"
        lines.append(
            f"| {layer['layer']} | {layer['nmse_initial']:.4f} | {layer['nmse_layerwise']:.4f} | {rate} "
            f"| {'' if layer['kept'] else 'taken back'} |"
        )
    worst = sorted(report["layers"], key=lambda layer: -layer["nmse_layerwise"])[:3]
    if worst:
        lines += ["", "Fit worst: " + ", ".join(f"layer {w['layer']} ({w['nmse_layerwise']:.4f})" for w in worst) + "."]
    lines += [""] + [f"![{plot}]({plot})" for plot in plots] + [""]
    return "\n".join(lines)


def _context(report: Mapping[str, Any]) -> list[str]:
    """Short contexts beside long ones, where a window or a narrow latent would show."""
    lines = ["| after phase 2 | teacher NLL | student NLL | KL | top-1 agreement |", "|---|---|---|---|---|"]
    for name, stretch in report["context"].items():
        lines.append(
            f"| {name}: positions {stretch['first']} to {stretch['last']} | {stretch['teacher_nll']:.4f} "
            f"| {stretch['student_nll']:.4f} | {stretch['kl']:.4f} | {stretch['top1_agreement']:.3f} |"
        )
    return lines


def _training(report: Mapping[str, Any], context: int) -> list[str]:
    """What was spent, and what was taken back."""
    layers, second, tokens = report["layers"], report["modelwise"], report["tokens"]
    lines = ["## Training", ""]
    trained = [layer for layer in layers if layer["steps"]]
    if trained:
        first = trained[0]
        lines.append(
            f"- Phase 1: {first['steps']:,} steps a layer of {first['rows']} x {context} tokens "
            f"({tokens['layerwise']:,}), {len(trained)} of {len(layers)} edited layers had something to learn."
        )
    lines.append(
        f"- Phase 2: {second['steps']:,} steps of {second['rows']} x {context} tokens ({tokens['modelwise']:,}), "
        f"learning rate {second['learning_rate']:.2e}."
    )
    if report["full_layers"] is not None:
        lines.append(f"- Layers with full attention: {', '.join(map(str, report['full_layers'])) or 'none'}.")
    back = [str(layer["layer"]) for layer in layers if not layer["kept"]]
    if back:
        lines.append(f"- Phase 1 made the error of layer {', '.join(back)} worse and was taken back there.")
    if not report["layerwise_kept"]:
        lines.append("- Phase 1 made KL on training rows worse and was taken back: phase 2 began as initialised.")
    if not second["kept"]:
        lines.append("- Phase 2 made KL on training rows worse and was taken back: try more tokens or a lower rate.")
    return lines


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Several runs side by side, one line each."""
    lines = [
        "| run | KV cache | bits/byte teacher | bits/byte student | difference | KL | top-1 agreement |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        teacher, student = report["teacher"]["bits_per_byte"], report["student"]["bits_per_byte"]["modelwise"]
        lines.append(
            f"| {name} | {-100 * saved(report):+.1f} % | {teacher:.4f} | {student:.4f} "
            f"| {100 * (student / teacher - 1):+.2f} % | {report['kl']['modelwise']:.4f} "
            f"| {report['top1_agreement']['modelwise']:.3f} |"
        )
    return "\n".join(lines)
