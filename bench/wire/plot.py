"""The picture of `baton bench transfer`, drawn from its result: `python -m baton.bench.wire.plot
RESULTS.jsonl PICTURE` draws the last one of a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from baton.bench.results import Result, read


def draw(result: Result, target: Path) -> None:
    """Bars per case; the losing ones are shown too. Raises ImportError without matplotlib."""
    # By name: it is an extra, which type checks do without.
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")

    cases = result.series["cases"]
    bars: dict[str, list[float]] = {
        "Baton, as probed": [c["schemes"][c["chosen"]]["gb_per_s"] for c in cases],
        "Baton, over UCX": [c["schemes"]["4 MiB messages"]["gb_per_s"] for c in cases],
        "Baton, staged": [c["schemes"]["staged"]["gb_per_s"] for c in cases],
        "NIXL": [c.get("nixl_gb_per_s", 0.0) for c in cases],
        "one contiguous buffer, the same way": [c["contiguous"]["gb_per_s"] for c in cases],
        "memory copy": [c["memcpy_gb_per_s"] for c in cases],
    }
    figure, axes = pyplot.subplots(figsize=(11, 4.5))
    width = 0.8 / len(bars)
    for index, (name, heights) in enumerate(bars.items()):
        places = [at + index * width - 0.4 + width / 2 for at in range(len(cases))]
        axes.bar(places, heights, width, label=name)
    axes.set_xticks(range(len(cases)), [c["case"] for c in cases])
    axes.set_ylabel("GB/s, median")
    machine = result.ran
    axes.set_title(
        f"Scattered cold KV blocks between two processes: {machine['cpu']}, "
        f"{machine['cores']} cores, {result.settings['carriers']}\n"
        f"{machine['command']} ({machine['commit']})",
        fontsize=9,
    )
    axes.legend(fontsize=8, ncols=3)
    figure.tight_layout()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(read(sys.argv[1])[-1], Path(sys.argv[2]))
