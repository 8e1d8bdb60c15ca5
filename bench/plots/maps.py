"""The picture of `baton bench map`: who wins over prompt and output length, one panel for each
load, with the border as measured and as planned."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from baton.bench.compare.cells import Cell
from baton.bench.plots.drawing import canvas
from baton.bench.results import Result

_MOST = 2.0
"""Of the colour: ratios of goodput from its inverse to it."""


def winners(result: Result) -> Any:
    """Colour: goodput of the best split over the best colocated layout. Lines: where neither wins,
    drawn through as measured and dashed as planned. A question mark: intervals leave it open. None
    of fewer than two by two places."""
    cells = [msgspec.convert(cell, Cell) for cell in result.series["cells"]]
    loads = list(dict.fromkeys(cell.load for cell in cells))
    prompts = sorted({cell.prompt for cell in cells})
    outputs = sorted({cell.output for cell in cells})
    if len(prompts) < 2 or len(outputs) < 2:
        return None
    settings = result.settings
    how = "real workers" if settings.get("real") else "simulated"
    figure, axes = canvas(
        f"Goodput of the best split over the best colocated layout, {settings['workers']} workers, "
        f"{settings['machine']}, {how}",
        result.ran, columns=len(loads), width=max(7.5, 4.2 * len(loads) + 1.6), height=4.6,
    )
    image = None
    for each, load in zip(axes, loads, strict=True):
        here = {(cell.prompt, cell.output): cell for cell in cells if cell.load == load}
        each.grid(False)
        image = each.imshow(
            [[_shade(here.get((p, o)), "measured") for p in prompts] for o in outputs],
            origin="lower", cmap="RdBu", vmin=-1, vmax=1, aspect="auto",
        )
        for (prompt, output), cell in here.items():
            mark = "?" if cell.won == 0 else ""
            each.annotate(f"{cell.measured:.2f}{mark}\n({cell.planned:.2f})",
                          (prompts.index(prompt), outputs.index(output)),
                          ha="center", va="center", fontsize=7)
        for name, line in (("measured", "-"), ("planned", "--")):
            border = [[_shade(here.get((p, o)), name) for p in prompts] for o in outputs]
            flat = [value for row in border for value in row if not math.isnan(value)]
            if flat and min(flat) < 0 < max(flat):
                each.contour(border, levels=[0.0], colors="black", linestyles=line, linewidths=1.3)
        each.set_xticks(range(len(prompts)), prompts)
        each.set_yticks(range(len(outputs)), outputs)
        each.set_xlabel("prompt, tokens")
        each.set_ylabel("output, tokens")
        each.set_title(f"load {load:g}; in brackets: planner", fontsize=9)
    bar = figure.colorbar(image, ax=axes, ticks=[-1, 0, 1], shrink=0.8)
    bar.ax.set_yticklabels([f"colocated\n{_MOST:g} times", "even", f"split\n{_MOST:g} times"])
    return figure


def _shade(cell: Cell | None, name: str) -> float:
    """-1 to 1 on a logarithmic scale."""
    if cell is None:
        return math.nan
    ratio: float = getattr(cell, name)
    return max(-1.0, min(1.0, math.log(max(ratio, 1e-9), _MOST)))
