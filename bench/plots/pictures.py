"""Which pictures a result has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from baton.bench.plots import comparison, maps, predicted, transfer
from baton.bench.plots.decision import costs
from baton.bench.results import Result

_KINDS: dict[str, dict[str, Callable[[Result], Any]]] = {
    "compare": {"frontier": comparison.frontier, "goodput": comparison.goodput,
                "capacity": comparison.capacities},
    "map": {"winners": maps.winners},
    "transfer": {"rates": transfer.rates},
    "routing decision": {"costs": costs},
}


class Picture(NamedTuple):
    result: Result
    name: str
    """For a file, without its suffix; no two of one call have the same."""
    figure: Any


def pictures(results: Iterable[Result]) -> Iterator[Picture]:
    """None for kinds that tables show as well. Raises ConfigError without matplotlib."""
    count: dict[str, int] = {}
    for result in results:
        kinds = dict(_KINDS.get(result.bench, {}))
        if result.series.get(predicted.SERIES):
            kinds["predicted"] = predicted.scatter
        for kind, draw in kinds.items():
            figure = draw(result)
            if figure is None:
                continue
            name = f"{_slug(result)}-{kind}"
            count[name] = count.get(name, 0) + 1
            yield Picture(result, name if count[name] == 1 else f"{name}-{count[name]}", figure)


def _slug(result: Result) -> str:
    """A name for files: the bench, and what it was about where that has a name."""
    about = [result.bench]
    for key in ("load", "file", "kind", "paced", "real"):
        value = result.settings.get(key)
        if isinstance(value, str) or value is True:
            about.append(key if value is True else value)
    return re.sub(r"[^a-z0-9]+", "-", " ".join(about).lower()).strip("-")
