"""`docs/benchmarks.md`, made from committed results: nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from baton.bench.plots.pictures import Picture
from baton.bench.plots.tables import Table, criteria, ran_with, tables
from baton.bench.results import Result, latest, read
from baton.protocol.errors import ConfigError

RESULTS = Path("bench/results")
PAGE = Path("docs/benchmarks.md")
PICTURES = Path("docs/benchmarks")

_HEAD = """# Benchmarks

Made by `baton bench plot --page` from [`bench/results/`](../bench/results); do not edit. Every
result carries its commit, machine and command, and the losing cases are shown too. Absolute times
are those of the machine named; ratios travel.
"""
_ABOUT = {
    "compare": "The same load on colocated and disaggregated layouts of equal resources",
    "map": "Who wins, over prompt length, output length and load",
    "serve": "Load on a server, from its client's side",
    "simulator": "The simulator",
    "planner": "The planner against published and measured data",
    "engine": "Step times of one worker, beside what the machine allows",
    "transfer": "Moving KV blocks between two processes",
    "handoff": "From the first token to the second",
    "overlap": "What a prefill hides of its hand-off, over a slow link",
    "headroom": "Prompts beside decodes",
    "startup": "From `baton up` to ready",
    "routing decision": "What a routing decision costs",
    "faults": "Kills, stops, cut links, full pools, bad bytes",
}
"""Headings, in the order of the page; benches that are not here come last."""
_LONGEST = 400


def read_all(folder: Path) -> list[Result]:
    """The results that count, of all files of a folder. Raises ConfigError where there are
    none."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ConfigError(f"no results (*.jsonl) in {folder}")
    return [result for file in files for result in latest(read(file))]


def page(results: Sequence[Result], pictures: Sequence[Picture]) -> str:
    """`pictures`: of these results, that are in PICTURES as SVG."""
    parts = [_HEAD]
    for bench in _order(results):
        mine = [result for result in results if result.bench == bench]
        parts.append(f"## {_ABOUT.get(bench, bench)}\n\n`baton bench {bench}`")
        groups = [mine] if bench == "faults" else [[result] for result in mine]
        for group in groups:
            parts += _section(group, pictures)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _order(results: Sequence[Result]) -> list[str]:
    there = dict.fromkeys(result.bench for result in results)
    return [*(bench for bench in _ABOUT if bench in there),
            *(bench for bench in there if bench not in _ABOUT)]


def _section(results: Sequence[Result], pictures: Sequence[Picture]) -> Iterator[str]:
    for sentence in results[0].metrics.get("verdict") or ():
        yield f"> {sentence}"
    for picture in pictures:
        if any(picture.result is result for result in results):
            name = picture.name
            yield f"![{name.replace('-', ' ')}]({PICTURES.name}/{name}.svg)"
    for table in tables(results):
        yield _markdown(table)
    checks = criteria(results)
    # Of many results with one criterion each, the table has said it.
    if checks.lines and len(results) == 1:
        yield _markdown(checks)
    yield from dict.fromkeys(_ran(result) for result in results)


def _markdown(table: Table) -> str:
    head = "| " + " | ".join(table.columns) + " |"
    rule = "|---|" + "---:|" * (len(table.columns) - 1)
    lines = ["| " + " | ".join(_cell(text) for text in line) + " |" for line in table.lines]
    title = f"{table.title}:\n\n" if table.title else ""
    return title + "\n".join([head, rule, *lines])


def _cell(text: str) -> str:
    text = text.replace("\n", " ").replace("|", "\\|")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _ran(result: Result) -> str:
    ran = result.ran
    when = f", {ran['when'][:10]}" if ran.get("when") else ""
    where = ran.get("gpu") or f"{ran['cpu']}, {ran['cores']} cores"
    return (
        f"{where}, Python {ran['python']}, torch {ran['torch']}{ran_with(result)}, commit "
        f"{ran['commit']}{when}:\n\n"
        f"    {ran['command']}"
    )
