"""A plan as one HTML file that needs nothing else: plots are SVG within it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from baton.bench.planning.figures import around, figure, percent
from baton.bench.planning.files import write_file
from baton.bench.planning.plan import (
    COLOCATED,
    DISAGGREGATED,
    HYBRID,
    Line,
    Plan,
    nearest_share,
)
from baton.protocol.errors import ConfigError

COLOURS = {DISAGGREGATED: "#1f6fb4", HYBRID: "#2e9e5b", COLOCATED: "#d1662a"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}
tr.no{color:#999}.verdict{font-size:1.15rem;font-weight:600}.bad{color:#b3261e}
figure{margin:1.5rem 0}svg{max-width:100%;height:auto}small{color:#666}
"""


def write_html(plan: Plan, path: Path) -> None:
    """Raises ConfigError when it cannot be written, or nothing can draw."""
    write_file(path, page(plan).encode())


def page(plan: Plan) -> str:
    """The whole document."""
    question = plan.question
    share = f"{question.attainment:.0%}"
    busy = [line for line in plan.plots.get("busy", []) if len(line.x) > 1]
    by_cost = question.ranked_by == "cost"
    each = ("a unit of money", "requests") if by_cost else ("each GPU", "requests/s per GPU")
    figures = [
        _figure(f"Frontier: what {each[0]} serves, by the ITL target",
                plan.plots.get("frontier", []), "ITL target, ms", each[1]),
        _figure(f"TTFT of {share} against the rate", plan.plots.get("ttft", []), "requests/s",
                "ms", limit=question.ttft_ms),
        _figure(f"ITL of {share} against the rate", plan.plots.get("itl", []), "requests/s", "ms",
                limit=question.itl_ms),
        _figure("How busy pools are over time", busy, "s", "share of the time", top=1.05),
    ]
    rate = question.rate_per_s
    wanted = "as many as can be" if rate is None else f"{figure(rate)} requests/s"
    return "".join([
        "<!doctype html><html lang=en><meta charset=utf-8><title>Plan</title>",
        f"<style>{_STYLE}</style><h1>Plan: {escape(question.workload)}, {wanted}</h1>",
        f"<p class=verdict>{escape(plan.verdict)}</p>",
        "" if plan.infeasible is None else
        f"<p class='verdict bad'>{escape(plan.infeasible.text)}</p>"
        + _list("Nearest, one change each", [n.text for n in plan.infeasible.nearest]),
        f"<p>TTFT {question.ttft_ms:g} ms, ITL {question.itl_ms:g} ms for {share} of requests; "
        f"{question.gpus} GPUs; prompts of {plan.load.prompt_tokens:.0f} tokens, of which "
        f"{plan.load.cached_tokens:.0f} shared, answers of {plan.load.output_tokens:.0f}.</p>",
        _table(plan),
        "<small>± is half of a 95 % interval over seeds</small>",
        *figures,
        _list("If it were otherwise", [change.text for change in plan.sensitivity]),
        _list("Break-even", [entry.text for entry in plan.break_even]),
        _list("Hardware", [f"{k.name}: {k.origin}; {k.note}" for k in plan.kinds]
              + ([] if plan.hosts is None else [plan.hosts])),
        _list("Notes", plan.notes),
        "</html>\n",
    ])


# -- inside ----------------------------------------------------------------------------------


def _table(plan: Plan) -> str:
    wanted = nearest_share(plan.question.attainment)
    p = f"p{wanted * 100:.0f}"
    by_cost = plan.question.ranked_by == "cost"
    per = ("per GPU", "per cost") if by_cost else ("per GPU",)
    head = ("layout", "shape", "GPUs", "capacity/s", *per, "at/s", "attained", f"TTFT {p}, ms",
            f"ITL {p}, ms", "gap p99, ms", "links", "ends it")
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for choice in plan.choices:
        seen = choice.simulated
        cells = [
            choice.name, choice.shape, str(choice.gpus),
            figure(choice.capacity_per_s) if seen is None else around(seen.capacity_per_s),
            figure(choice.goodput_per_gpu),
            *([figure(choice.goodput_per_cost or 0.0)] if by_cost else []),
            *(("",) * 5 if seen is None else (
                figure(seen.rate_per_s), around(percent(seen.attainment), " %"),
                around(seen.ttft_ms.at(wanted)), around(seen.itl_ms.at(wanted)),
                around(seen.gap_ms.p99),
            )),
            "" if choice.traffic is None else f"{choice.traffic.share:.0%}",
            choice.binds,
        ]
        rows.append(
            f"<tr{'' if choice.feasible else ' class=no'}>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>" + "".join(f"<li>{escape(one)}</li>" for one in lines) + "</ul>"


def _figure(
    title: str,
    lines: Sequence[Line],
    x: str,
    y: str,
    *,
    limit: float | None = None,
    top: float | None = None,
) -> str:
    """`limit`: a horizontal line that is a target; nothing much above it is shown."""
    if not any(line.x for line in lines):
        return ""
    drawn = _svg(lines, x, y, limit, top)
    return f"<figure><figcaption><b>{escape(title)}</b></figcaption>{drawn}</figure>"


def _svg(lines: Sequence[Line], x: str, y: str, limit: float | None, top: float | None) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--html needs matplotlib: pip install 'baton-serve[plot]'") from error
    drawn = Figure(figsize=(9, 4.2), layout="constrained")
    axes = drawn.subplots()
    styles = ("-", "--", ":", "-.")
    used: dict[str, int] = {}
    for line in lines:
        number = used[line.shape] = used.get(line.shape, -1) + 1
        colour = COLOURS.get(line.shape, "#555")
        if line.low:
            around = [[a - b for a, b in zip(line.y, line.low, strict=True)],
                      [a - b for a, b in zip(line.high, line.y, strict=True)]]
            axes.errorbar(line.x, line.y, yerr=around, fmt="o", color=colour, label=line.name,
                          capsize=4)
        elif line.name.endswith("simulated"):
            axes.plot(line.x, line.y, "o", color=colour, label=line.name, markersize=4)
        else:
            axes.plot(line.x, line.y, styles[number % len(styles)], color=colour, label=line.name,
                      linewidth=1.4)
    if limit is not None:
        axes.axhline(limit, color="#b3261e", linewidth=1, label="target")
        axes.set_ylim(0, 2.5 * limit)
    elif top is not None:
        axes.set_ylim(0, top)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    FigureCanvasSVG(drawn)
    written = io.StringIO()
    with rc_context({"svg.hashsalt": "baton"}):  # the same plan, the same file
        drawn.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg"):]
