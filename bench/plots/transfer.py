"""Pictures of `baton bench transfer`."""

from __future__ import annotations

from typing import Any

from baton.bench.plots.drawing import bars, canvas
from baton.bench.results import Result


def rates(result: Result) -> Any:
    """Bars per case; the losing ones are shown too."""
    cases = result.series["cases"]
    figure, (axes,) = canvas(
        "Scattered cold KV blocks between two processes, median "
        f"({result.settings['carriers']})",
        result.ran, width=11,
    )

    def scheme(case: dict[str, Any], name: str) -> float | None:
        found = case["schemes"].get(name)
        return found["gb_per_s"] if found else None

    bars(axes, [case["case"] for case in cases], {
        "Baton, as probed": [scheme(case, case["chosen"]) for case in cases],
        "Baton, over UCX": [scheme(case, "4 MiB messages") for case in cases],
        "Baton, staged": [scheme(case, "staged") for case in cases],
        "NIXL": [case.get("nixl_gb_per_s") for case in cases],
        "one contiguous buffer, the same way": [case["contiguous"]["gb_per_s"] for case in cases],
        "memory copy": [case["memcpy_gb_per_s"] for case in cases],
    })
    axes.set_ylabel("GB/s")
    return figure
