"""The model card: README.md of an exported folder, with what was done, measured and checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import attnedit
from attnedit.checkpoint import read_object, read_sealed
from attnedit.checkpoint.folder import LICENCES
from attnedit.export.parity import Parity
from attnedit.foreign import require_inside
from attnedit.models import DecoderConfig
from attnedit.models.decoder import AttentionConfig, described
from attnedit.nn import GateSWAConfig, MLAConfig

TAG = "attnedit"
LICENCE_KEYS = ("license", "license_name", "license_link")
CACHE_BYTES = 2  # bfloat16, as engines keep it
PAPER = "[Attention Editing](https://arxiv.org/abs/2604.05688)"


def model_card(
    config: DecoderConfig,
    name: str,
    format: str,
    raw: Mapping[str, Any],
    loader: str,
    dtype: str,
    figures: Sequence[Parity],
    source: str | Path | None,
    run: str | Path | None,
) -> str:
    """loader: the class that reads the folder; source: where the model or its teacher came from; run: a finished run,
    whose figures are told."""
    stated = {} if source is None else front_matter(Path(source))
    base = base_model(stated, None if source is None else Path(source))
    edited = any(isinstance(layer, GateSWAConfig | MLAConfig) for layer in config.attention)
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base is not None:
        head |= {"base_model": base, "base_model_relation": "finetune"}
    licence = inherited_licence(stated, None if source is None else Path(source))
    head |= licence | {"tags": [TAG, *sorted({_kind(layer) for layer in config.attention})]}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---",
        f"# {name}",
        _opening(config, base, edited, dtype, format, raw),
        _loading(raw, loader),
        _method(run) if edited else None,
        *(_measured(Path(run), config) if run is not None else [_cache(config)]),
        _checks(figures),
        _provenance(run),
        _licence(licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(folder: Path) -> dict[str, Any]:
    """What the folder's own card states between its dashes; nothing where there is no card or no YAML in it."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    require_inside(folder, path)
    with path.open("rb") as file:
        parts = file.read(2**20).decode("utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        # Somebody else's file: everything is text, and nothing is merged, so that nothing grows.
        stated = yaml.load(parts[1], yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    return {key: value for key, value in stated.items() if _texts(value)} if isinstance(stated, dict) else {}


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def base_model(stated: Mapping[str, Any], source: Path | None) -> Any:
    """The unedited model: what a card of ours states, else the hub's name for the folder, else the folder's."""
    if TAG in (stated.get("tags") or []):
        return stated.get("base_model")
    if source is None:
        return None
    source = source.absolute()
    if source.parent.name == "snapshots" and source.parents[1].name.startswith("models--"):
        return source.parents[1].name.removeprefix("models--").replace("--", "/")
    return source.name


def licence_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(LICENCES))


def inherited_licence(stated: Mapping[str, Any], source: Path | None) -> dict[str, Any]:
    """As the source's card states it, else its config.json, else the licence file that lies there."""
    found = {key: stated[key] for key in LICENCE_KEYS if stated.get(key)}
    if found or source is None:
        return found
    config = read_object(source / "config.json")
    if isinstance(config.get("license"), str):
        return {"license": config["license"]}
    files = licence_files(source)
    return {"license": "other", "license_name": "as-base-model", "license_link": files[0].name} if files else {}


def _kind(layer: AttentionConfig) -> str:
    return {"MLAConfig": "mla", "GateSWAConfig": "gate-swa"}.get(type(layer).__name__, "gqa")


def _opening(
    config: DecoderConfig, base: Any, edited: bool, dtype: str, format: str, raw: Mapping[str, Any]
) -> str:  # fmt: skip
    of = "a model" if base is None else str(base)
    did = f"{of} with its attention edited" if edited else f"{of}, its attention as it was,"
    layers = Counter(map(described, config.attention))
    rows = [f"- {count} of {config.num_hidden_layers} layers: {kind}" for kind, count in layers.items()]
    if config.moe is not None:
        moe = config.moe
        sparse = sum(config.sparse(i) for i in range(config.num_hidden_layers))
        kind = f"mixture of {moe.num_experts} experts, {moe.num_experts_per_tok} a token"
        rows.append(f"- {sparse} of {config.num_hidden_layers} layers: {kind}")
    written = f"{did[0].upper()}{did[1:]} by attnedit {attnedit.__version__}, written as `{format}` in {dtype}"
    return f"{written} (class `{raw['architectures'][0]}`).\n\n" + "\n".join(rows)


def _loading(raw: Mapping[str, Any], loader: str) -> str:
    remote = ", trust_remote_code=True" if "auto_map" in raw else ""
    lines = [
        f"from transformers import {loader}, AutoTokenizer",
        "",
        f'model = {loader}.from_pretrained("FOLDER", dtype="auto"{remote})',
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{remote})',
    ]
    more = "\n\nAfter `import attnedit.hf` the flag is not needed." if remote else ""
    return "## Loading\n\n```python\n" + "\n".join(lines) + f"\n```{more}"


def _method(run: str | Path | None) -> str:
    text = (
        f"## Method\n\n{PAPER}: the new attention is initialised from the old one, learns layer by layer from the "
        "teacher's activations, then as a whole model from the teacher's next-token distribution."
    )
    if run is None or not (Path(run) / "recipe.yaml").is_file():
        return text
    path = Path(run) / "recipe.yaml"
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"[export] {path} must be YAML: {line}{error.problem}") from None
    return f"{text} The recipe, with every default:\n\n```yaml\n{yaml.safe_dump(_named(recipe), sort_keys=False)}```"


def _named(value: Any) -> Any:
    """Paths by their last name only: a card is published, the disk of who made it is not."""
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _measured(run: Path, config: DecoderConfig) -> list[str]:
    report = read_sealed(run / "report.json")
    try:
        return [_quality(report), f"{_cache(config)}\n\n{_cache_before(report)}"]
    except KeyError as error:
        raise ValueError(
            f"[export] {run / 'report.json'} must be of a finished run of this version, {error} is missing"
        ) from None


def _quality(report: Mapping[str, Any]) -> str:
    teacher, student = report["teacher"], report["student"]
    rows = [
        f"## Quality\n\nOn held-out text of {report['tokens']['heldout_predictions']:,} predicted tokens:\n",
        "| | base model | this model |",
        "|---|---|---|",
        f"| NLL, nats/token | {teacher['nll']:.4f} | {student['nll']['modelwise']:.4f} |",
        f"| bits/byte | {teacher['bits_per_byte']:.4f} | {student['bits_per_byte']['modelwise']:.4f} |",
        f"| KL to the base model, nats/token | | {report['kl']['modelwise']:.4f} |",
        f"| top-1 agreement | | {report['top1_agreement']['modelwise']:.3f} |",
    ]
    return "\n".join(rows)


def _cache(config: DecoderConfig) -> str:
    """Counted from the shapes."""
    longest = config.rope.max_position_embeddings
    lines = [
        "## KV cache\n\nBytes of one sequence in bfloat16:\n",
        "| context | this model | bytes/token |",
        "|---|---|---|",
    ]
    for context in sorted({min(longest, context) for context in (4096, 32768)}):
        total = config.kv_numbers(context) * CACHE_BYTES
        lines.append(f"| {context:,} | {total:,} | {total / context:,.0f} |")
    return "\n".join(lines)


def _cache_before(report: Mapping[str, Any]) -> str:
    caches = report["kv_cache"]
    before, after = (caches[name]["bytes_at_context"] for name in ("teacher", "student"))
    return (
        f"At {caches['teacher']['context']:,} tokens the base model needs {before:,} bytes, this one {after:,} "
        f"({100 * (after / before - 1):+.1f} %)."
    )


def _checks(figures: Sequence[Parity]) -> str:
    lines = [
        "## Checked\n\nThis folder, read again from the disk, beside the model it was written from:\n",
        "| read by | largest logit | max abs logit difference | KL, nats/token | greedy generation with cache |",
        "|---|---|---|---|---|",
    ]
    for figure in figures:
        told = {None: "", True: "equal", False: "different"}[figure.generation_equal]
        lines.append(f"| {figure.reader} | {figure.largest:.4g} | {figure.difference:.2g} | {figure.kl:.2g} | {told} |")
    return "\n".join(lines)


def _provenance(run: str | Path | None) -> str | None:
    if run is None or not (Path(run) / "provenance.json").is_file():
        return None
    made = read_sealed(Path(run) / "provenance.json")
    rows = [f"- {what} (SHA-256): `{made[what]}`" for what in ("teacher", "tokenizer", "corpus") if what in made]
    return "## Provenance\n\n" + "\n".join([f"- attnedit {made.get('version')}", *rows])


def _licence(licence: Mapping[str, Any]) -> str:
    if not licence:
        return "## Licence\n\nThe base model's folder states none; its licence applies."
    where = f", see {licence['license_link']}" if licence.get("license_link") else ""
    return f"## Licence\n\nAs the base model's: {licence.get('license_name') or licence.get('license')}{where}."
