"""attnedit on the command line: verbs that wire the rooms."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from attnedit import runtime

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Edit a trained language model's attention into MLA or gated sliding-window attention, on a CPU.",
)  # fmt: skip


def model_folder(given: Path) -> Path:
    """A run is no model, but holds one."""
    if not (given / "config.json").exists() and (given / "provenance.json").is_file():
        if (given / "student").is_dir():
            raise typer.BadParameter(f"{given} is a run: give {given / 'student'}")
        raise typer.BadParameter(f"{given} is a run without a student yet: the convert command finishes it")
    return given


RecipePath = Annotated[Path, typer.Argument(help="the recipe, a YAML file")]
ModelPath = Annotated[
    Path, typer.Argument(help="a Hugging Face folder", callback=model_folder, exists=True, file_okay=False)
]
PeerPython = Annotated[
    str, typer.Option(envvar="ATTNEDIT_PEER_PYTHON", help="the interpreter that has torch and transformers")
]


@app.command()
def convert(recipe: RecipePath, quiet: Annotated[bool, typer.Option(help="no progress")] = False) -> None:
    """Run a recipe, or continue it where it stopped."""
    from attnedit.convert import convert as run
    from attnedit.convert import read_recipe
    from attnedit.convert.progress import Progress
    from attnedit.evaluate.report import table

    read = read_recipe(recipe)
    report, folder = run(read, Progress(quiet)), Path(read.run)
    print(table({folder.name: report}))
    print(f"\nstudent: {folder / 'student'}\nreport:  {folder / 'report.md'}")


@app.command()
def plan(
    recipe: RecipePath,
    context: Annotated[int, typer.Option(help="tokens in the cache", min=1)] = 32768,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure this machine for 30 s: how long it takes")
    ] = False,
) -> None:
    """What a recipe will cost, from shapes: parameters, FLOPs, memory, disk, KV cache. Looks for its text, too."""
    from attnedit.convert import read_recipe
    from attnedit.convert.plan import in_time, lines, times
    from attnedit.convert.plan import plan as predict
    from attnedit.convert.text_size import text_size
    from attnedit.data import Tokenizer

    read = read_recipe(recipe)
    tokenizer = Tokenizer(read.teacher)
    planned = predict(read)  # of a process that holds its tokenizer, as a conversion's does
    print(planned.text(context))
    text = text_size(read, planned, tokenizer)
    print(lines(text.told))
    if calibrate:
        first, second, third = map(in_time, times(read, planned, text.evaluated_rows))
        told = f"phase 1 {first}, phase 2 {second}, evaluations {third}; the edit and the export come on top"
        print(lines({"time on this machine": told}))


@app.command()
def evaluate(
    student: ModelPath,
    teacher: Annotated[
        Path, typer.Option(help="the folder to compare with", callback=model_folder, exists=True, file_okay=False)
    ],
    text: Annotated[list[Path] | None, typer.Option(help="held-out text files")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="[NAME=]FILE or a folder: multiple choice, last words; needle=TEXT, repeat_copy=TEXT"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="of every task only the first items", min=1)] = None,
    decode: Annotated[bool, typer.Option("--decode", help="decoding speed and cache bytes by context")] = False,
    separator: Annotated[str | None, typer.Option(help="between documents")] = None,
    sequence_length: Annotated[
        int | None, typer.Option(help="documents are cut here, default: 2048 or less; the longest made task", min=2)
    ] = None,
    python: PeerPython = sys.executable,
) -> None:
    """Compare two models on held-out text (NLL, KL, top-1 agreement), on tasks, or how they decode. Prints JSON."""
    from dataclasses import asdict

    import attnedit as ae
    from attnedit.convert.progress import Progress
    from attnedit.data import Tokenizer, heldout_rows, read_documents
    from attnedit.evaluate.decode_speed import compare_decoding
    from attnedit.evaluate.task_scores import summary, task_table

    if not (text or tasks or decode):
        raise ValueError("[evaluate] --text, --tasks or --decode must be given")
    found = compare_decoding(student, teacher, python) if decode else {}
    if not (text or tasks):
        print(json.dumps(found, indent=1))
        return
    documents = read_documents([str(path.absolute()) for path in text], separator, Path()) if text else []
    models = ae.load(student), ae.load(teacher)
    longest = min(model.config.rope.max_position_embeddings for model in models)
    length = min(2048, longest) if sequence_length is None else sequence_length
    if length > longest:
        raise ValueError(f"[evaluate] sequence_length must be at most the models' {longest}, got {length}")
    tokenizer = Tokenizer(teacher)
    if Tokenizer(student).fingerprint() != tokenizer.fingerprint():
        raise ValueError(f"[evaluate] {student} and {teacher} must have the same tokenizer.json, theirs differ")
    if tasks:
        with Progress().count("tasks", "tokens") as on_tokens:
            compared = ae.evaluate_tasks(
                *models, tokenizer, tasks, limit=limit, sequence_length=sequence_length, on_tokens=on_tokens
            )
        print(task_table(compared), file=sys.stderr)
        found |= summary(compared)
    if text:
        rows = heldout_rows(tokenizer.encode_documents(documents), length)
        with Progress().count("evaluating", "tokens") as on_tokens:
            found = asdict(ae.evaluate(*models, rows, on_tokens)) | found
    print(json.dumps(found, indent=1))


def utf8(given: Any) -> Any:
    """What the shell passed on as text; bytes that are not UTF-8 come as halves of surrogate pairs."""
    try:
        "".join(given or []).encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it must be UTF-8") from None
    return given


@app.command()
def generate(
    model: ModelPath,
    prompt: Annotated[
        list[str] | None, typer.Option(help="text to continue; several are a batch", callback=utf8)
    ] = None,
    chat: Annotated[
        str | None, typer.Option(help="what a user says, for the model's chat template", callback=utf8)
    ] = None,
    system: Annotated[str | None, typer.Option(help="with --chat: the system message", callback=utf8)] = None,
    messages: Annotated[Path | None, typer.Option(help="a conversation: a JSON list of {role, content}")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="how many to add at most; 128", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0: greedy, which is the default")] = None,
    top_k: Annotated[int | None, typer.Option(help="sample among the k likeliest tokens; 0: all")] = None,
    top_p: Annotated[float | None, typer.Option(help="among the fewest that have this probability together")] = None,
    seed: Annotated[int, typer.Option(help="for sampling", min=0)] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="end before this text; several times for several", callback=utf8)
    ] = None,
    stop_token: Annotated[list[str] | None, typer.Option(help="end at this token, by its name", callback=utf8)] = None,
    cache_dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
) -> None:
    """Continue a prompt, or answer in a chat; the text comes as it is made.

    What is not given is as the folder's generation_config.json says.
    """
    import attnedit as ae
    from attnedit.data import Tokenizer, read_messages
    from attnedit.generate import stream
    from attnedit.generate.show import show

    ways = {"--prompt": prompt, "--chat": chat, "--messages": messages}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"[generate] one of {', '.join(ways)} must be given, got {' and '.join(given) or 'none'}")
    if system is not None and chat is None:
        raise ValueError(f"[generate] --system must come with --chat, got {given[0]}")
    tokenizer = Tokenizer(model)
    conversation = read_messages(messages, chat, system)
    prompts: list[Any] = [*prompt] if prompt else [tokenizer.apply_chat_template(conversation)]
    stops: list[str | int] = [*(stop or []), *map(tokenizer.token_id, stop_token or [])]
    pieces = stream(
        ae.load(model), prompts, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
        top_p=top_p, seed=seed, stop=stops, cache_dtype=cache_dtype,
    )  # fmt: skip
    try:
        show(pieces, prompt or [""])
    except KeyboardInterrupt:
        sys.exit(130)  # what came so far is on the screen, and there is nothing to continue


@app.command()
def info(model: ModelPath) -> None:
    """What a folder holds, without reading the weights."""
    from attnedit.checkpoint import Checkpoint
    from attnedit.models import Decoder
    from attnedit.models.load import read_config
    from attnedit.nn import GateSWAConfig

    checkpoint = Checkpoint.open(model)
    config = read_config(checkpoint)
    decoder = Decoder(config)
    stored = sorted({checkpoint.dtype(name).name for name in checkpoint.names()})
    print(decoder)
    print(f"vocabulary {config.vocab_size:,}, hidden {config.hidden_size}, rope {config.rope.rope_type} "
          f"{config.rope.rope_theta:g}, {config.kv_numbers(1):,} cached numbers a token, weights in "
          f"{' and '.join(stored)}")  # fmt: skip
    if config.moe is not None:
        sparse = sum(map(config.moe.sparse, range(config.num_hidden_layers)))
        print(f"experts {config.moe.num_experts}, {config.moe.num_experts_per_tok} a token, "
              f"in {sparse} of {config.num_hidden_layers} layers")  # fmt: skip
    gated = [layer for layer in config.attention if isinstance(layer, GateSWAConfig)]
    if gated:
        windows = sorted({layer.sliding_window for layer in gated if layer.sliding_window is not None})
        seen = {"window": windows, "full layers": config.full_layers}
        told = [f"{name} {', '.join(map(str, values)) or 'none'}" for name, values in seen.items()]
        print(f"{', '.join(told)}, gate {gated[0].gate} per {gated[0].gate_per}")
    for i, layer in enumerate(config.attention):
        print(f"layer {i}: {layer}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="a finished run, or a Hugging Face folder")],
    out: Annotated[Path, typer.Option(help="the new folder")],
    format: Annotated[str, typer.Option(help="attnedit, or the model_type of a stock class")] = "attnedit",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: as stored")] = None,
    verify: Annotated[str | None, typer.Option(help="transformers: load it in the stock class and compare")] = None,
    python: PeerPython = sys.executable,
) -> None:
    """Write a model in another format; refused where the format cannot hold it exactly."""
    from attnedit.export import export_run_or_folder

    print(export_run_or_folder(model, out, format, cast(Any, dtype), cast(Any, verify), python, print))


@app.command()
def table(runs: Annotated[list[Path], typer.Argument(help="run folders")]) -> None:
    """Finished runs side by side."""
    from attnedit.checkpoint import read_sealed
    from attnedit.evaluate.report import table as side_by_side

    other = [run for run in runs if run.is_dir() and not (run / "report.json").exists()]
    if len(other) < len(runs):
        for run in other:
            warnings.warn(f"left out: {run} is no finished run", stacklevel=1)
        runs = [run for run in runs if run not in other]
    short = len({run.name for run in runs}) == len(runs)
    reports: dict[str, Any] = {run.name if short else str(run): read_sealed(run / "report.json") for run in runs}
    try:
        print(side_by_side(reports))
    except KeyError as error:
        raise ValueError(f"[table] report.json must be of a finished run of this version, {error} is missing") from None


def _interruptible() -> Any:
    """app, which Ctrl-C and SIGTERM end; also where a library catches that and makes an error of its own of it."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is not signal.SIG_IGN:  # as nohup and the like leave them
            signal.signal(each, stop)
    sys.unraisablehook = lambda one: None if one.exc_type is KeyboardInterrupt else sys.__unraisablehook__(one)
    try:
        runtime.instruction_set()  # a wrong ATTNEDIT_ISA is told before anything is read or written
        return app(standalone_mode=False)  # typer turns Ctrl-C into 130, and a pipe that nobody reads into 1
    except Exception:
        if stopped:
            raise KeyboardInterrupt from None
        raise


def main() -> None:
    """Exit 2 with one line for bad input; 130 after Ctrl-C or SIGTERM, which keep a checkpoint."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    runtime.report_lost_files()
    try:
        code = _interruptible()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush again, and complain
        code = 1
    except KeyboardInterrupt:  # where typer is not looking: while it starts and ends
        code = 130
    except Exception as error:
        if os.environ.get("ATTNEDIT_TRACEBACK"):
            raise
        bare = "the system gives no more memory" if isinstance(error, MemoryError) else type(error).__name__
        text = error.format_message() if hasattr(error, "format_message") else str(error) or bare
        if isinstance(error, OSError) and error.filename is not None:
            text = f"{error.filename}: {error.strerror}"
        if isinstance(
            error, OSError | ValueError | TypeError | MemoryError | ArithmeticError | RuntimeError
        ) or hasattr(error, "format_message"):
            if text.strip():  # none behind the help that a bare call prints
                print(f"attnedit: {' '.join(text.split())}", file=sys.stderr)
            sys.exit(2)
        raise
    if code == 130:
        print("attnedit: stopped; the same command continues", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)
