"""`baton bench handoff`: what a client sees of the hand-off, on an idle cluster.

Requests come one at a time, each with a prompt that no cache knows, and each is handed over,
whatever the router would think of that. The first token comes from the prefill worker, the second
from the decode worker, so the gap between them is the hand-off and one decode step; the gaps that
follow are decode steps alone. Their difference is what handing over costs. Beside it, from the same
run, by the prefill worker's own clock: how long blocks were still on the wire when the prompt was
done, which no orchestration can save.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from baton.bench.faults.parts import Part, Parts, Plan
from baton.bench.quantiles import quantile
from baton.bench.report import at_most, show_ran
from baton.bench.results import Result, add_json, deliver, found

LIMIT_MS = 5.0
"""Beyond the time on the wire."""
PHASES = ("exposed", "seal", "admit", "ack", "reserve", "grant")
"""See docs/protocol.md. "exposed" without "ack" is the wire here: from the end of the prompt until
the last message was over."""
_WARM_UP = 10
_OUTPUT = 10
_LOWEST_ID = 1000
"""Ids below may be special."""
_METRICS_SECONDS = 2.5
"""Workers tell their metrics once a second."""

Histogram = dict[float, float]
"""Upper bound in seconds to cumulative count."""


class _Direct(Parts):
    """Nothing between the processes, as in service."""

    def _worker(self, name: str, common: list[str], number: int) -> Part:
        arguments = ["worker", *common, "--role", name.partition("-")[0], "--id", name,
                     "--join", f"127.0.0.1:{self.control_port}", *self.plan.worker_options]
        return Part(name, arguments, self.plan.tampering, self.folder / f"{name}.log")

    def phases(self) -> dict[str, Histogram]:
        """So far, over all workers."""
        found: dict[str, Histogram] = {phase: {} for phase in PHASES}
        for sample, value in self.samples().items():
            match = re.fullmatch(r"baton_handoff_phase_seconds_bucket\{(.*)\}", sample)
            if match is None:
                continue
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            if labels["phase"] in found:
                bound, counts = float(labels["le"]), found[labels["phase"]]
                counts[bound] = counts.get(bound, 0.0) + value
        return found


def median_of(before: Histogram, after: Histogram) -> tuple[float, int]:
    """(seconds, how many) of what came between two readings; evenly spread within a bucket."""
    counts = [(bound, after[bound] - before.get(bound, 0.0)) for bound in sorted(after)]
    total = counts[-1][1] if counts else 0.0
    low, below = 0.0, 0.0
    for bound, count in counts:
        if total and count >= total / 2:
            if bound == float("inf"):
                return low, int(total)
            return low + (bound - low) * (total / 2 - below) / (count - below), int(total)
        low, below = bound, count
    return 0.0, 0


async def stream(session: aiohttp.ClientSession, url: str, prompt: list[int]) -> list[float]:
    """When each token arrived, seconds."""
    body = {
        "prompt": prompt, "max_tokens": _OUTPUT, "temperature": 0, "ignore_eos": True,
        "stream": True,
    }
    arrived = []
    async with session.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                arrived.append(time.perf_counter())
    return arrived


async def run(parts: _Direct, tokens: int, requests: int, seed: int) -> dict[str, Any]:
    """Medians, milliseconds."""
    rng = np.random.default_rng(seed)
    first_gaps, steps, extra = [], [], []
    before: dict[str, Histogram] = {}
    async with aiohttp.ClientSession() as session:
        for index in track(range(requests + _WARM_UP), "requests", console=Console(stderr=True)):
            if index == _WARM_UP:
                await asyncio.sleep(_METRICS_SECONDS)
                before = parts.phases()
            prompt = rng.integers(_LOWEST_ID, 40_000, tokens).tolist()
            arrived = await stream(session, parts.url, prompt)
            gaps = [1e3 * (b - a) for a, b in itertools.pairwise(arrived)]
            if index >= _WARM_UP:
                first_gaps.append(gaps[0])
                steps.append(statistics.median(gaps[1:]))
                extra.append(first_gaps[-1] - steps[-1])
        await asyncio.sleep(_METRICS_SECONDS)
    after = parts.phases()
    phases = {phase: median_of(before[phase], after[phase]) for phase in PHASES}
    phase_ms = {phase: 1e3 * seconds for phase, (seconds, _) in phases.items()}
    return {
        "requests": len(extra),
        "hand_offs": phases["exposed"][1],
        "first_gap_ms": statistics.median(first_gaps),
        "step_ms": statistics.median(steps),
        "extra_ms": statistics.median(extra),
        "extra_p90_ms": quantile(extra, 0.9),
        "wire_ms": max(0.0, phase_ms["exposed"] - phase_ms["ack"]),
        "phase_ms": phase_ms,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton bench handoff", description=__doc__)
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--tokens", type=int, default=512, help="of each prompt")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--dtype", default="auto", help="as for `baton up`")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    options = parser.parse_args(argv)
    threads = max(1, (os.cpu_count() or 2) // 2)
    plan = Plan(
        model=options.model, prefill=1, decode=1, dtype=options.dtype,
        worker_options=("--threads", str(threads)),
    )
    with _Direct(plan) as parts:
        measured = asyncio.run(run(parts, options.tokens, options.requests, options.seed))
    beyond = measured["extra_ms"] - measured["wire_ms"]
    result = found(
        "handoff",
        settings={
            "model": options.model or "embedded",
            "prompt_tokens": options.tokens,
            "threads_per_worker": threads,
            "requests": options.requests,
        },
        metrics={**measured, "beyond_wire_ms": beyond},
        rows=[at_most("beyond the wire, ms", LIMIT_MS, beyond, 2)],
    )
    if not deliver(result, options.json):
        _show(result)
    return 0 if measured["hand_offs"] == measured["requests"] else 1


def _show(result: Result) -> None:
    settings, seen = result.settings, result.metrics
    table = Table(
        title=f"Hand-off of {settings['prompt_tokens']} tokens, {settings['model']}: medians of "
        f"{seen['requests']} requests, ms"
    )
    for column in ("token 1 to 2", "a step", "difference", "its p90", "on the wire", "beyond it"):
        table.add_column(column, justify="right")
    values = [seen[name] for name in ("first_gap_ms", "step_ms", "extra_ms", "extra_p90_ms")]
    values += [seen["wire_ms"], seen["beyond_wire_ms"]]
    table.add_row(*(f"{value:.2f}" for value in values))
    console = Console()
    console.print(table)
    phases = ", ".join(f"{name} {ms:.2f}" for name, ms in seen["phase_ms"].items())
    console.print(
        f"Limit beyond the wire: {LIMIT_MS:g} ms. {seen['hand_offs']} hand-offs. "
        f"Phases: {phases}."
    )
    show_ran(result.ran)


if __name__ == "__main__":
    sys.exit(main())
