"""Predicted against measured, for any result that has a series of such pairs.

The series is named "predicted". Each entry has `what`, `predicted` and `measured`, which count
where both are above 0, and may have `group`, for a colour.
"""

from __future__ import annotations

from typing import Any

from baton.bench.plots.drawing import canvas, logarithmic
from baton.bench.results import Result

SERIES = "predicted"


def scatter(result: Result) -> Any:
    """On the diagonal they agree; the dashed lines are 10 % away."""
    pairs = [p for p in result.series[SERIES] if p["predicted"] and p["measured"]]
    if not pairs:
        return None
    figure, (axes,) = canvas(f"{result.bench}: predicted and measured", result.ran, width=6,
                             height=5.5)
    for group in dict.fromkeys(str(p.get("group", "")) for p in pairs):
        mine = [p for p in pairs if str(p.get("group", "")) == group]
        axes.scatter([p["measured"] for p in mine], [p["predicted"] for p in mine], s=14,
                     alpha=0.7, label=group or None)
    values = [p[name] for p in pairs for name in ("predicted", "measured")]
    ends = [0.8 * min(values), 1.25 * max(values)]
    for factor, line in ((1.0, "-"), (1.1, "--"), (1 / 1.1, "--")):
        axes.plot(ends, [factor * end for end in ends], line, color="#999999", linewidth=0.8)
    logarithmic(axes)
    axes.set_xlabel("measured")
    axes.set_ylabel("predicted")
    if any(p.get("group") for p in pairs):
        axes.legend(fontsize=7)
    return figure
