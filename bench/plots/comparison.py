"""Pictures of `baton bench compare`: first token against the time between tokens, goodput over the
rate, and capacities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from baton.bench.compare.measure import Point, Run
from baton.bench.compare.phases import Phases
from baton.bench.compare.verdict import Standing, standings
from baton.bench.plots.drawing import canvas, colours, logarithmic
from baton.bench.results import Result

_PERCENTS = ("p50", "p99")


def standings_of(result: Result, series: str = "points") -> list[Standing]:
    """As they were when the comparison ended."""
    unknown = Phases(ttft={}, gap=0.0, plain=0.0, stretched=0.0)
    points = [msgspec.convert(point, Point) for point in result.series.get(series, ())]
    return standings([Run(point=point, phases=unknown, seen=[]) for point in points])


def frontier(result: Result) -> Any:
    """First token against inter-token latency, both at P50 and at P99. One line for each layout,
    along the rates; what was tried while tuning is there too, small. Lower left is better."""
    found, tried = standings_of(result), standings_of(result, "tuning")
    figure, axes = canvas(
        f"{result.settings['load']}: first token against the time between tokens",
        result.ran, columns=2, width=11, height=5,
    )
    looks = _looks([*found, *tried])
    for each, percent in zip(axes, _PERCENTS, strict=True):
        for group, small in ((tried, True), (found, False)):
            for name in dict.fromkeys(one.layout for one in group):
                points = [
                    (one.mid(f"ttft_{percent}_ms"), one.mid(f"itl_{percent}_ms"), one.rate)
                    for one in group if one.layout == name
                ]
                colour, mark = looks[name]
                each.plot(
                    [x for x, _, _ in points], [y for _, y, _ in points],
                    marker=mark, color=colour, markersize=3 if small else 6,
                    linewidth=0 if small else 1.2, label=None if small else name,
                )
                for x, y, rate in points if not small else ():
                    each.annotate(f"{rate:g}/s", (x, y), fontsize=6, xytext=(4, 3),
                                  textcoords="offset points")
        logarithmic(each)
        each.set_xlabel(f"TTFT {percent.upper()}, ms")
        each.set_ylabel(f"ITL {percent.upper()}, ms")
        if percent == "p50":
            _target(each, result)
    axes[0].legend(fontsize=7)
    return figure


def goodput(result: Result) -> Any:
    """Requests that attained their targets, over the rate, with intervals."""
    found = standings_of(result)
    settings = result.settings
    figure, (axes,) = canvas(
        f"{settings['load']}: requests within TTFT {1e3 * settings['ttft']:g} ms and ITL "
        f"{1e3 * settings['itl']:g} ms"
        + (f", E2E {1e3 * settings['e2e']:g} ms" if settings.get("e2e") is not None else ""),
        result.ran,
    )
    looks = _looks(found)
    for name in dict.fromkeys(each.layout for each in found):
        mine = [each for each in found if each.layout == name]
        intervals = [each.interval("goodput_per_s") for each in mine]
        known = [(each.rate, i) for each, i in zip(mine, intervals, strict=True) if i is not None]
        spread = [
            [max(0.0, i.mid - i.low) if i.known else 0.0 for _, i in known],
            [max(0.0, i.high - i.mid) if i.known else 0.0 for _, i in known],
        ]
        colour, mark = looks[name]
        axes.errorbar(
            [rate for rate, _ in known], [i.mid for _, i in known], yerr=spread,
            color=colour, marker=mark, capsize=3, linewidth=1.4, label=name,
        )
    highest = max((each.rate for each in found), default=1.0)
    axes.plot([0, highest], [0, highest], color="#bbbbbb", linestyle=":", linewidth=1,
              label="all that came")
    axes.set_xlabel("requests per second")
    axes.set_ylabel("goodput, requests per second")
    axes.legend(fontsize=7)
    return figure


def capacities(result: Result) -> Any:
    """Bars with intervals. None where they were not looked for."""
    found = result.metrics.get("capacity_per_s") or {}
    if not found:
        return None
    figure, (axes,) = canvas(
        f"{result.settings['load']}: highest rate at which "
        f"{result.settings['attainment']:.0%} attain their targets",
        result.ran,
    )
    looks = _looks([*standings_of(result, "probes"), *standings_of(result)])
    for place, (name, interval) in enumerate(found.items()):
        mid, low, high = interval["mid"], interval["low"], interval["high"]
        spread = [[0.0], [0.0]] if low is None else [[max(0.0, mid - low)], [max(0.0, high - mid)]]
        axes.bar(place, mid, 0.6, yerr=spread, capsize=5, color=looks.get(name, ("#444444",))[0])
        axes.annotate(f"{mid:.2f}", (place, mid), ha="center", xytext=(0, 4),
                      textcoords="offset points", fontsize=8)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("requests per second")
    return figure


def _looks(found: Sequence[Standing]) -> dict[str, tuple[Any, str]]:
    return colours([each.layout for each in found], [each.family for each in found])


def _target(axes: Any, result: Result) -> None:
    """The corner in which targets are kept, as far as a median says it."""
    axes.axvline(1e3 * result.settings["ttft"], color="#999999", linestyle="--", linewidth=0.8)
    axes.axhline(1e3 * result.settings["itl"], color="#999999", linestyle="--", linewidth=0.8)
