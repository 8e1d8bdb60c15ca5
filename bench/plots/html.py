"""A report in one file: pictures as SVG, tables, criteria, and what was run where."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from baton.bench.plots.drawing import save_to
from baton.bench.plots.pictures import pictures
from baton.bench.plots.tables import Table, criteria, ran_with, tables
from baton.bench.results import Result
from baton.protocol.errors import ConfigError

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
caption { text-align: left; font-weight: 600; padding: .3em 0 }
code { background: #f4f4f4; padding: .1em .3em; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
li { margin: .4em 0 } footer { color: #777; font-size: 12px }
"""


def write_report(results: Sequence[Result], path: Path) -> None:
    """Raises ConfigError where it cannot be written, or without matplotlib."""
    document = (
        '<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>Baton: benchmarks</title>'
        f"<style>{_STYLE}</style>\n" + "\n".join(_body(results)) + "\n</html>\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _body(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        yield f"<h1>baton bench {escape(result.bench)}</h1>"
        verdict = result.metrics.get("verdict") or ()
        if verdict:
            yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in verdict) + "</ul>"
        for picture in pictures([result]):
            yield _svg(picture.figure)
        for table in [*tables([result]), criteria([result])]:
            if table.lines:
                yield _table(table)
        ran = result.ran
        yield (
            f"<footer>{escape(str(ran.get('cpu')))}, {ran.get('cores')} cores, torch "
            f"{escape(str(ran.get('torch')))}{escape(ran_with(result))}, commit "
            f"{escape(str(ran.get('commit')))}, "
            f"{escape(str(ran.get('when', '')))}<br><code>{escape(str(ran.get('command')))}</code>"
            "</footer>"
        )


def _svg(figure: Any) -> str:
    file = io.StringIO()
    save_to(figure, file)
    text = file.getvalue()
    return text[text.index("<svg"):]


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell).replace('**', '')}</td>" for cell in line) + "</tr>"
        for line in table.lines
    )
    return f"<table><caption>{escape(table.title)}</caption><tr>{head}</tr>{lines}</table>"
