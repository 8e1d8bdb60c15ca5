"""`baton bench routing trace FILE`: requests of a trace in simulated time: the automatic router
against every static split and colocated workers.

FILE is a trace as Mooncake or Azure published theirs, or the journal of a router (`--journal`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from baton.bench.durations import duration
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import show_rows
from baton.bench.results import add_json, chosen, deliver, found
from baton.bench.routing.contest import hold
from baton.bench.routing.suite import of_all, show_contest
from baton.bench.routing.systems import System
from baton.bench.routing.trial import Trial, lanes_for, run_trial
from baton.bench.routing.workloads import targets_for
from baton.bench.workloads.sessions import LONGEST, MAX_TOKENS
from baton.bench.workloads.traces import read_trace, replay
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    trace = read_trace(options.file)
    lengths = sorted(traced.prompt for traced in trace)
    usual = targets_for(machine, min(LONGEST, lengths[len(lengths) // 2]))
    targets = Targets(ttft=options.ttft or usual.ttft, itl=options.itl or usual.itl)
    warm = options.warm_up
    window = (options.start, (warm + options.seconds) * options.speed)
    replayed = list(replay(
        trace, speed=options.speed, start=window[0], seconds=window[1],
        longest=min(LONGEST, machine.limits.max_model_len - MAX_TOKENS), max_tokens=MAX_TOKENS,
        targets=targets,
    ))
    if not replayed:
        raise ConfigError(f"{options.file} has no request that fits from {window[0]:g} s on")

    def run(systems: Sequence[System], seed: int) -> list[Trial]:
        return [
            run_trial(
                system, machine, iter(replayed), lanes=lanes_for(targets),
                count=(warm, warm + options.seconds), seed=seed,
            )
            for system in systems
        ]

    started = time.monotonic()
    contest = hold(options.workers, options.seeds, run, options.systems or ())
    show_contest(
        f"{options.file.name} x {options.speed:g}, {options.workers} workers, TTFT "
        f"{targets.ttft:g} s, ITL {targets.itl:g} s ({time.monotonic() - started:.0f} s taken)",
        contest,
    )
    rows = [contest.row(options.file.name)]
    good = show_rows(rows)
    deliver(found(
        "routing trace",
        settings={**chosen(options), "file": options.file.name, "machine": machine.name,
                  "ttft": targets.ttft, "itl": targets.itl},
        metrics={"requests": len(replayed),
                 "ratio": contest.ratio._asdict(), "systems": of_all(contest)},
        rows=rows,
    ), options.json)
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing trace", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as it was")
    parser.add_argument("--start", type=duration, default=0.0, metavar="DURATION",
                        help="into the trace")
    parser.add_argument("--warm-up", type=duration, default=30.0, metavar="DURATION")
    parser.add_argument("--seconds", type=float, default=60.0, help="that count")
    parser.add_argument("--ttft", type=duration, metavar="DURATION",
                        help="default: four times what the median prompt takes alone")
    parser.add_argument("--itl", type=duration, metavar="DURATION")
    parser.add_argument("--systems", nargs="+", metavar="NAME",
                        help='only these, such as auto "split 2+2" "colocated 256"')
    parser.add_argument("--machine", help="a file of `baton profile`, or FILE:MODEL:TP of a "
                        "DistServe fit; default: one made of a device's figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1],
                        help="of what varies beside the requests: how long steps take")
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
