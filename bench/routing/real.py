"""`baton bench routing real`: real processes, asked over HTTP, beside a simulation of the same.

Workers are paced (they take the time that a profile says, so many of them fit on few cores). The
router is the real one, with its HTTP endpoint and its journal, from which the errors of its
predictions are taken. What differs from the simulation is what the simulation leaves out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found
from baton.bench.routing.suite import SHAPES, load_of, longest_prompt, warm_up
from baton.bench.routing.systems import automatic
from baton.bench.routing.trial import lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.serve.asking import Asking
from baton.bench.serve.run import serve
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import summary
from baton.protocol.profile import Profile, encode_profile
from baton.protocol.records import Targets

_START_SECONDS = 120.0
TTFT_ERROR, ITL_ERROR = 0.15, 0.10
SAME = 0.9
"""Goodput of real processes, of that simulated."""


@contextmanager
def paced_cluster(
    machine: Machine, prefills: int, decodes: int, targets: Targets, journal: Path
) -> Iterator[str]:
    """The URL of a cluster of paced workers."""
    profile = journal.with_suffix(".profile.json")
    profile.write_bytes(encode_profile(Profile(
        model=machine.name, fingerprint=machine.name, dtype=machine.layout.dtype, device="paced",
        device_name=machine.name, threads=1, block_size=machine.layout.block_size,
        curve=machine.curve,
    )))
    limits = machine.limits
    command = [
        sys.executable, "-P", "-m", "baton.deploy.cli", "up", "--port", "0",
        "--paced", str(profile), "--prefill", str(prefills), "--decode", str(decodes),
        "--block-size", str(machine.layout.block_size), "--kv-blocks", str(machine.num_blocks),
        "--max-running", str(limits.max_running),
        "--max-batch-tokens", str(limits.max_batch_tokens),
        "--ttft", f"{targets.ttft}s", "--itl", f"{targets.itl}s", "--journal", str(journal),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    output: list[str] = []
    try:
        yield _ready(process, output)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def _ready(process: subprocess.Popen[str], output: list[str]) -> str:
    """The line with the URL is the last before it is ready."""
    assert process.stdout is not None
    until = time.monotonic() + _START_SECONDS
    for line in process.stdout:
        output.append(line)
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            return found[0]
        if time.monotonic() > until:
            break
    raise RuntimeError("the cluster did not start:\n" + "".join(output[-20:]))


def prediction_errors(journal: Path) -> dict[str, list[float]]:
    """|predicted / actual - 1| of the "ttft" and "itl" of requests that took one attempt."""
    errors: dict[str, list[float]] = {"ttft": [], "itl": []}
    for line in journal.read_bytes().splitlines():
        account = msgspec.json.decode(line)
        attempts = account.get("attempts") or []
        if len(attempts) != 1 or account.get("ttft") is None:
            continue
        predicted = attempts[0].get("predicted") or {}
        actual = {"ttft": account["ttft"] - attempts[0]["at"], "itl": account.get("itl")}
        for what, seconds in actual.items():
            if seconds and predicted.get(what) and account.get("output_tokens", 0) >= 8:
                errors[what].append(abs(predicted[what] / seconds - 1))
    return errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine).slower(options.slower)
    warm, workers = warm_up(options.kind), options.prefills + options.decodes
    parts = load_of(options.kind, options.load, workers, machine, options.seconds)
    targets = targets_for(machine, longest_prompt(options.kind))
    stream = list(arrivals(parts, machine, options.seed, targets=targets))
    count = (warm, warm + options.seconds)
    with tempfile.TemporaryDirectory() as directory:
        journal = Path(directory) / "journal.jsonl"
        with paced_cluster(machine, options.prefills, options.decodes, targets, journal) as url:
            real = asyncio.run(serve(
                url, stream, warmup=warm, seconds=options.seconds, asking=Asking(scripted=True),
            )).outcomes()
        errors = prediction_errors(journal)
    simulated = run_trial(
        automatic(workers, options.prefills), machine, stream, lanes=lanes_for(targets),
        count=count, seed=options.seed,
    ).outcomes
    figures = {"real": summary(real, options.seconds),
               "simulated": summary(simulated, options.seconds)}
    show_table(
        f"{options.kind}, {options.prefills} + {options.decodes} paced workers",
        ("", "requests", "goodput/s", "attained", "TTFT p50", "p99 ms", "ITL p50", "p99 ms",
         "hits"),
        [(name, f["requests"], f["goodput_per_s"], f["attainment"], f["ttft_ms"]["p50"],
          f["ttft_ms"]["p99"], f["itl_ms"]["p50"], f["itl_ms"]["p99"], f["hit_rate"])
         for name, f in figures.items()],
    )
    rows: list[Row] = [
        at_least("goodput of real processes, of that simulated", SAME,
                 figures["real"]["goodput_per_s"] / max(1e-9, figures["simulated"]["goodput_per_s"])
                 ),
        at_most("error of predicted TTFT, median", TTFT_ERROR, median(errors["ttft"] or [1.0])),
        at_most("error of predicted ITL, median", ITL_ERROR, median(errors["itl"] or [1.0])),
    ]
    good = show_rows(rows)
    deliver(found(
        "routing real", settings={**chosen(options), "machine": machine.name},
        metrics=figures, rows=rows,
    ), options.json)
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing real", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prefills", type=int, default=4)
    parser.add_argument("--decodes", type=int, default=4)
    parser.add_argument("--kind", choices=SHAPES, default="chat")
    parser.add_argument("--load", type=float, default=0.5, help="of what the cluster could do")
    parser.add_argument("--slower", type=float, default=1.0,
                        help="times that the machine is slower: for few cores")
    parser.add_argument("--seconds", type=float, default=30.0, help="that count")
    parser.add_argument("--machine", help="as for suite")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
