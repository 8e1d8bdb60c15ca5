"""`baton bench handoff`: what a client sees of the hand-off, on an idle cluster.

Requests come one at a time, each with a prompt that no cache knows. The first token comes from the
prefill worker, the second from the decode worker, so the gap between them is the hand-off and one
decode step; the gaps that follow are decode steps alone. Their difference is what handing over
costs. Beside it, from the same run: how long the blocks were on the wire, by the decode worker's
own clock, and the same requests on one mixed worker, where nothing is handed over.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from baton.bench import machine

LIMIT_MS = 5.0
"""Beyond the time on the wire."""
_WARM_UP = 10
_OUTPUT = 16
_LOWEST_ID = 1000
"""Ids below may be special."""


@asynccontextmanager
async def serving(model: str | None, layout: Sequence[str]) -> AsyncIterator[str]:
    """The URL of a cluster of its own."""
    command = [sys.executable, "-P", "-m", "baton.deploy.cli", "up", *([model] if model else [])]
    process = await asyncio.create_subprocess_exec(
        *command, "--port", "0", *layout,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if found := re.search(rb"http://[\d.]+:\d+", line):
                break
        else:
            raise RuntimeError("baton up ended before it served")
        yield found[0].decode()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


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


async def wire_seconds(session: aiohttp.ClientSession, url: str) -> tuple[float, float]:
    """(sum, count) of the hand-offs' time on the wire so far."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    totals = [0.0, 0.0]
    for line in text.splitlines():
        if line.startswith("baton_") and 'phase="wire"' in line and "handoff" in line:
            name, value = line.rsplit(" ", 1)
            for index, suffix in enumerate(("_sum{", "_count{")):
                if suffix in name:
                    totals[index] += float(value)
    return totals[0], totals[1]


async def measure(
    model: str | None, layout: Sequence[str], tokens: int, requests: int, seed: int
) -> dict[str, float]:
    """Medians, milliseconds."""
    rng = np.random.default_rng(seed)
    first_gaps, steps, extra = [], [], []
    async with serving(model, layout) as url, aiohttp.ClientSession() as session:
        before = (0.0, 0.0)
        for index in track(range(requests + _WARM_UP), " ".join(layout), console=_console()):
            if index == _WARM_UP:
                await asyncio.sleep(2.5)  # workers tell their metrics once a second
                before = await wire_seconds(session, url)
            prompt = rng.integers(_LOWEST_ID, 40_000, tokens).tolist()
            arrived = await stream(session, url, prompt)
            gaps = [1e3 * (b - a) for a, b in itertools.pairwise(arrived)]
            if index >= _WARM_UP and len(gaps) > 2:
                first_gaps.append(gaps[0])
                steps.append(statistics.median(gaps[1:]))
                extra.append(first_gaps[-1] - steps[-1])
        await asyncio.sleep(2.5)
        after = await wire_seconds(session, url)
    count = after[1] - before[1]
    return {
        "requests": len(extra),
        "first_gap_ms": statistics.median(first_gaps),
        "step_ms": statistics.median(steps),
        "extra_ms": statistics.median(extra),
        "extra_p90_ms": float(np.percentile(extra, 90)),
        "wire_ms": 1e3 * (after[0] - before[0]) / count if count else 0.0,
        "hand_offs": count,
    }


def _console() -> Console:
    return Console(stderr=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton bench handoff", description=__doc__)
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--tokens", type=int, default=512, help="of each prompt")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args(argv)
    layouts = {
        "prefill 1 + decode 1": ("--prefill", "1", "--decode", "1"),
        "mixed 1": ("--mixed", "1"),
    }
    results = {
        name: asyncio.run(
            measure(options.model, layout, options.tokens, options.requests, options.seed)
        )
        for name, layout in layouts.items()
    }
    split = results["prefill 1 + decode 1"]
    result: dict[str, Any] = {
        "benchmark": "handoff",
        "machine": machine.describe(),
        "model": options.model or "embedded",
        "prompt_tokens": options.tokens,
        "layouts": results,
        "beyond_wire_ms": split["extra_ms"] - split["wire_ms"],
        "limit_ms": LIMIT_MS,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    table = Table(
        title=f"Hand-off of {result['prompt_tokens']} tokens, {result['model']}, medians in ms"
    )
    for column in ("", "token 1 to 2", "a step", "difference", "its p90", "mean on the wire"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result["layouts"].items():
        columns = ("first_gap_ms", "step_ms", "extra_ms", "extra_p90_ms", "wire_ms")
        table.add_row(name, *(f"{row[column]:.2f}" for column in columns))
    console = Console()
    console.print(table)
    console.print(
        f"Beyond the wire: {result['beyond_wire_ms']:.2f} ms (limit {result['limit_ms']:g}), "
        f"over {result['layouts']['prefill 1 + decode 1']['hand_offs']:.0f} hand-offs"
    )
    described = result["machine"]
    console.print(
        f"{described['cpu']}, {described['cores']} cores, torch {described['torch']}, "
        f"commit {described['commit']}; {described['command']}",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
