"""`baton bench startup`: from installed to ready, beside what cannot be avoided.

The floor is one process that imports torch and reads the weights (dequantised where they are
quantised), nothing else. It is measured in the same run, in turn with whole starts of `baton up`.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from baton.bench.report import at_most, show_ran
from baton.bench.results import Result, add_json, deliver, found

_FLOOR = """
import json, sys, time
start = time.perf_counter()
import torch
imported = time.perf_counter()
torch.set_num_threads(1)
from baton.engine.model.source import resolve_model
from baton.engine.weights import iter_weights
total = 0
for name, tensor in iter_weights(resolve_model(sys.argv[1] or None)):
    total += tensor.numel()
done = time.perf_counter()
print(json.dumps({"import torch": imported - start, "read the weights": done - imported}))
"""

LIMIT = 2.0
"""Ready within so many times the floor."""


def run(model: str | None, layout: Sequence[str], rounds: int) -> Result:
    """Medians over `rounds`, seconds."""
    floors: list[dict[str, float]] = []
    starts: list[float] = []
    details: str = ""
    for _ in range(rounds):
        floors.append(_floor(model))
        seconds, details = _start(model, layout)
        starts.append(seconds)
    floor = statistics.median(sum(parts.values()) for parts in floors)
    ready = statistics.median(starts)
    return found(
        "startup",
        settings={"model": model or "embedded", "layout": " ".join(layout), "rounds": rounds},
        metrics={
            "floor_seconds": floor,
            "floor_parts": {
                name: statistics.median(parts[name] for parts in floors) for name in floors[0]
            },
            "ready_seconds": ready,
            "ratio": ready / floor,
            "last_start": details,
        },
        rows=[at_most("ready, times the floor", LIMIT, ready / floor, 2)],
        series={"ready_seconds": starts},
    )


def _floor(model: str | None) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _FLOOR, model or ""],
        capture_output=True, text=True, check=True,
    )
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts


def _start(model: str | None, layout: Sequence[str]) -> tuple[float, str]:
    """Seconds until the URL is announced, which happens once all workers serve."""
    command = [sys.executable, "-P", "-m", "baton.deploy.cli", "up"]
    command += [model] if model else []
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--port", "0", *layout], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        seconds = None
        shown: list[str] = []
        for line in process.stdout:
            shown.append(line)
            if re.search(r"http://\S+:\d+", line) and seconds is None:
                seconds = time.perf_counter() - began
                process.send_signal(signal.SIGTERM)
    if seconds is None:
        raise RuntimeError("baton up never announced its URL:\n" + "".join(shown))
    return seconds, "".join(shown)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton bench startup", description=__doc__)
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--layout", default="--prefill 1 --decode 1", help="workers to start")
    parser.add_argument("--rounds", type=int, default=5)
    add_json(parser)
    options = parser.parse_args(argv)
    result = run(options.model, options.layout.split(), options.rounds)
    if deliver(result, options.json):
        return 0
    seen = result.metrics
    table = Table(title=f"Start of {result.settings['model']} with {options.layout}, median of "
                        f"{options.rounds}")
    table.add_column("part")
    table.add_column("seconds", justify="right")
    for name, seconds in seen["floor_parts"].items():
        table.add_row(name, f"{seconds:.2f}")
    table.add_row("floor, both together", f"{seen['floor_seconds']:.2f}")
    table.add_row("baton up, to ready", f"{seen['ready_seconds']:.2f}")
    table.add_row("ratio", f"{seen['ratio']:.2f} (limit {LIMIT:g})")
    console = Console()
    console.print(table)
    console.print(seen["last_start"], markup=False, highlight=False)
    show_ran(result.ran)
    return 0


if __name__ == "__main__":
    sys.exit(main())
