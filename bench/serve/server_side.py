"""What a server says of itself at /metrics: the difference between two moments.

Nothing is assumed of its names: every histogram of seconds gives a mean, every counter how much it
grew. So Baton's phases and those of others come out beside what the client saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 10.0
Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a sample."""
BESIDE = {
    "ttft_ms": ("ttft_seconds", "time_to_first_token_seconds"),
    "itl_ms": ("itl_seconds", "inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e_ms": ("e2e_seconds", "e2e_request_latency_seconds"),
}
"""Figures of the client, and what servers call the same."""
_NOT_LABELS = ("worker", "model_name", "engine", "le")
"""Summed over."""


@dataclass(frozen=True)
class Scrape:
    sums: dict[Key, float]
    """Of histograms."""
    counts: dict[Key, float]
    counters: dict[Key, float]


async def scrape(http: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> Scrape | None:
    """None where there is no such page."""
    try:
        async with http.get(
            f"{url}/metrics", headers=headers, timeout=aiohttp.ClientTimeout(total=_SECONDS)
        ) as reply:
            return parse(await reply.text()) if reply.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None


def parse(page: str) -> Scrape:
    """Raises ValueError for what is no metrics page."""
    scrape = Scrape({}, {}, {})
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if family.type == "histogram" and sample.name.endswith("_sum"):
                _add(scrape.sums, family.name, sample)
            elif family.type == "histogram" and sample.name.endswith("_count"):
                _add(scrape.counts, family.name, sample)
            elif family.type == "counter" and sample.name.endswith("_total"):
                _add(scrape.counters, family.name, sample)
    return scrape


def _add(into: dict[Key, float], name: str, sample: Any) -> None:
    labels = tuple(sorted(
        (label, value) for label, value in sample.labels.items() if label not in _NOT_LABELS
    ))
    into[name, labels] = into.get((name, labels), 0.0) + sample.value


def difference(before: Scrape, after: Scrape) -> dict[str, Any]:
    """`mean_ms` of histograms of seconds with how many values they are of, and `grew` of counters;
    what stood still is left out."""
    means: dict[str, dict[str, float]] = {}
    for key, count in after.counts.items():
        number = count - before.counts.get(key, 0.0)
        if number > 0 and "seconds" in key[0]:
            total = after.sums.get(key, 0.0) - before.sums.get(key, 0.0)
            means[_label(key)] = {"mean_ms": round(1e3 * total / number, 3), "count": int(number)}
    grew = {
        _label(key): round(value - before.counters.get(key, 0.0), 6)
        for key, value in after.counters.items()
        if value > before.counters.get(key, 0.0)
    }
    return {"times": means, "counters": grew}


def beside(figures: Mapping[str, Any], times: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Means of the client with those of the server under it: the difference is what lies between
    them, and in the client."""
    found = {}
    for figure, endings in BESIDE.items():
        theirs = next((times[name]["mean_ms"] for ending in endings for name in times
                       if name.endswith(ending)), None)
        if figures.get(figure) is not None and theirs is not None:
            found[figure] = {"client": figures[figure]["mean"], "server": theirs}
    return found


def _label(key: Key) -> str:
    name, labels = key
    return name + ("{" + ",".join(f"{k}={v}" for k, v in labels) + "}" if labels else "")
