"""Cost against length, window, vocabulary and threads, from the newest lines of results.csv.

python benchmarks/plots.py                      draws into benchmarks/plots/
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker
from results import RESULTS, Line, newest, told


def size(letter: str, name: str) -> int | None:
    """The number behind a letter of a case's name: T, W or V."""
    found = re.search(rf"\b{letter}(\d+)\b", name)
    return int(found[1]) if found else None


def draw(
    path: Path, title: str, axis: str, lines: list[Line], x_of: Callable[[Line], int | None],
    groups: dict[str, Callable[[Line], bool]],
) -> bool:  # fmt: skip
    """A line per group, with whiskers from the fastest to the slowest repetition; dashed, what it would take at the
    machine's limit. False: nothing to draw."""
    figure, axes = pyplot.subplots(figsize=(6, 4))
    drawn: set[int] = set()
    limit: str | None = "at the machine's limit"
    for label, belongs in groups.items():
        by_x = {x: line for line in lines if belongs(line) and (x := x_of(line)) is not None}
        if len(by_x) < 2:
            continue
        xs = sorted(by_x)
        ms, least, most = ([float(by_x[x][f"ours_{k}ms"]) for x in xs] for k in ("", "min_", "max_"))
        below = [m - a for m, a in zip(ms, least, strict=True)]
        above = [b - m for m, b in zip(ms, most, strict=True)]
        line = axes.errorbar(xs, ms, yerr=[below, above], marker="o", capsize=3, label=label)
        limited = [(x, m * float(by_x[x]["share"])) for x, m in zip(xs, ms, strict=True) if by_x[x]["share"]]
        if limited:
            axes.plot(*zip(*limited, strict=True), "--", color=line[0].get_color(), label=limit)
            limit = None  # once in the legend
        drawn |= set(xs)
    if drawn:
        axes.set(title=title, xlabel=axis, ylabel="ms", xscale="log", yscale="log")
        ticks = sorted(drawn)
        axes.set_xticks(ticks, [f"{x:,}" for x in ticks], rotation=30 if len(ticks) > 4 else 0)
        axes.minorticks_off()
        axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.tight_layout()
        figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return bool(drawn)


def draw_all(results: Path, out: Path) -> None:
    lines = [line for line in newest(results) if line["dtype"] == "float32"]
    cores = max((int(line["threads"]) for line in lines), default=0)
    of = {k: [line for line in lines if line["kernel"] == k] for k in ("attention", "fused_kl")}
    out.mkdir(exist_ok=True)

    def cases(pattern: str, direction: str, every_thread: bool = False) -> Callable[[Line], bool]:
        return lambda r: (
            re.fullmatch(pattern, r["case"]) is not None
            and r["direction"] == direction
            and (every_thread or int(r["threads"]) == cores)
        )

    pictures = {
        "attention_length": draw(
            out / "attention_length.png", "attention, forward and backward", "tokens T", of["attention"],
            lambda r: size("T", r["case"]),
            {
                "full, 16 heads of 128": cases(r"16 heads of 128 T\d+", "f+b"),
                "window 512, Qwen3-0.6B, gated": cases(r"Qwen3-0.6B T\d+ W512 gated", "f+b"),
            },
        ),
        "attention_window": draw(
            out / "attention_window.png", "gated attention, T 4096, forward and backward", "window W",
            of["attention"], lambda r: size("W", r["case"]),
            {"Qwen3-0.6B": cases(r"Qwen3-0.6B T4096 W\d+ gated", "f+b")},
        ),
        "fused_kl_vocabulary": draw(
            out / "fused_kl_vocabulary.png", "divergence with hidden gradient, 512 tokens", "vocabulary V",
            of["fused_kl"], lambda r: size("V", r["case"]),
            {"hidden size 1024": cases(r"Qwen3-0.6B T512 V\d+", "loss+dH")},
        ),
        "fused_kl_length": draw(
            out / "fused_kl_length.png", "divergence with hidden gradient", "tokens T",
            of["fused_kl"], lambda r: size("T", r["case"]),
            {
                f"hidden size 1024, vocabulary {v:,}": cases(rf"Qwen3-0.6B T\d+ V{v}", "loss+dH")
                for v in (16384, 151936)
            },
        ),
        "threads": draw(
            out / "threads.png", "attention, 16 heads of 128, T 2048, forward and backward", "threads",
            of["attention"], lambda r: int(r["threads"]),
            {"ours": cases("16 heads of 128 T2048", "f+b", every_thread=True)},
        ),
    }  # fmt: skip
    for name, drawn in pictures.items():
        print(out / f"{name}.png" if drawn else f"{name}: fewer than two lines in {results}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "plots")
    options = parser.parse_args()
    with told(options.results, options.out):
        draw_all(options.results, options.out)


if __name__ == "__main__":
    main()
