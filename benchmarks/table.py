"""The newest lines of results.csv as a table to read, kernel by kernel.

python benchmarks/table.py                      writes benchmarks/TABLE.md
"""

import argparse
from itertools import groupby
from pathlib import Path

from results import QUIET, RESULTS, Line, newest, number, told

HEAD = """\
# Every kernel beside its peers and this machine's limits

{processor}, {isa}; {first} to {last} UTC, commits {commits}. Written by `make bench` from
[results.csv](results.csv); [README.md](README.md) says how it measures and what each limit is. Ratio: the peer's
median time by ours, above 1 we are faster; the peer as its allocator is shipped / told to keep its memory. Lines in
italics: other processes took more than a tenth of a core.
"""
COLUMNS = ("case", "direction", "threads", "ours, ms", "fastest-slowest", "of limit", "extra MiB", "peer", "peer, ms",
           "ratio", "peer's extra MiB")  # fmt: skip


def table(lines: list[Line]) -> str:
    dates, commits = sorted(line["date"] for line in lines), sorted({line["commit"] for line in lines})
    last = lines[-1]
    about = {"first": dates[0][:10], "last": dates[-1][:10], "commits": ", ".join(commits)}
    text = [HEAD.format(processor=last["processor"], isa=last["isa"], **about)]
    for kernel, of_kernel in groupby(sorted(lines, key=lambda line: line["kernel"]), lambda line: line["kernel"]):
        text += [f"## {kernel}\n", row(COLUMNS), row(["---"] * len(COLUMNS))]
        sides: dict[tuple[str, ...], dict[str, Line]] = {}
        for line in of_kernel:
            key = tuple(line[k] for k in ("case", "direction", "threads", "peer"))
            sides.setdefault(key, {})[line["allocator"]] = line
        text += [row(cells(found)) for _, found in sorted(sides.items())]
        text.append("")
    return "\n".join(text)


def cells(found: dict[str, Line]) -> list[str]:
    """Of one case and peer: the newest of ours, and the peer with each allocator."""
    ours = max(found.values(), key=lambda line: line["date"])
    sides = [found[kind] for kind in ("shipped", "kept", "") if kind in found]

    def each(column: str) -> str:
        return " / ".join(number(float(side[column])) if side[column] else "failed" for side in sides)

    share = f"{float(ours['share']):.0%} {ours['limit']}" if ours["share"] else ""
    case = ours["case"] if float(ours["cores_others_took"]) <= QUIET else f"*{ours['case']}*"
    mine = [case, ours["direction"], ours["threads"], number(float(ours["ours_ms"])),
            f"{number(float(ours['ours_min_ms']))}-{number(float(ours['ours_max_ms']))}", share,
            number(max(float(ours["ours_extra_mib"]), float(ours["ours_extra_rss_mib"])))]  # fmt: skip
    if not ours["peer"]:
        return mine + [""] * 4
    return [*mine, ours["peer"], each("peer_ms"), each("ratio"), each("peer_extra_rss_mib")]


def row(values: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "TABLE.md")
    options = parser.parse_args()
    with told(options.results, options.out):
        options.out.write_text(table(newest(options.results)), "utf-8")


if __name__ == "__main__":
    main()
