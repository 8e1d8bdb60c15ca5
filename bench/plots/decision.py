"""The picture of `baton bench routing decision`."""

from __future__ import annotations

from typing import Any

from baton.bench.plots.drawing import canvas, logarithmic
from baton.bench.results import Result


def costs(result: Result) -> Any:
    """Microseconds over the number of workers, median and P99."""
    rows = result.series["decision"]
    figure, (axes,) = canvas("What one routing decision costs", result.ran)
    workers = [row["workers"] for row in rows]
    for name in ("candidates", "decide", "together"):
        (line,) = axes.plot(workers, [row[f"{name}_us"]["median"] for row in rows], marker="o",
                            label=name)
        axes.plot(workers, [row[f"{name}_us"]["p99"] for row in rows], linestyle=":",
                  color=line.get_color(), label=f"{name}, P99")
    axes.set_xscale("log", base=2)
    logarithmic(axes, x=False)
    axes.set_xticks(workers, workers)
    axes.set_xlabel("workers")
    axes.set_ylabel("microseconds")
    axes.legend(fontsize=7, ncols=3)
    return figure
