"""`baton bench routing overload`: goodput far beyond capacity, and how soon a burst is over.

Loads from below to far above what the cluster can serve; then a steady load with a burst in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found
from baton.bench.routing.systems import automatic
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.simulator.outcome import attainment, summary, window
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.workload import Part

LOADS = (0.4, 0.6, 0.8, 1.0, 1.3)
TIMES = 3.0
WARM = 5.0
SHARE = 0.9
RECOVERY = 5.0
"""Seconds after the burst from which on all is as before it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    workers, kind = options.workers, options.kind
    unit = workers * capacity(kind, machine, targets_for(machine, KINDS[kind].prompt))

    def run(parts: list[Part], count: tuple[float, float]) -> Trial:
        targets = targets_for(machine, KINDS[kind].prompt)
        return run_trial(
            automatic(workers), machine, arrivals(parts, machine, options.seed),
            lanes=lanes_for(targets), count=count, seed=options.seed,
        )

    def steady(load: float) -> Trial:
        end = WARM + options.seconds
        return run([Part(kind, load * unit, 0.0, end)], (WARM, end))

    trials = {load: steady(load) for load in LOADS}
    best = max(trials, key=lambda load: trials[load].goodput)
    beyond = TIMES * best
    trials[beyond] = steady(beyond)
    burst, rows = _burst(run, kind, 0.6 * best * unit, TIMES * best * unit, options.seconds)
    share = trials[beyond].goodput / trials[best].goodput
    rows.insert(0, at_least(f"goodput at {TIMES:g} times capacity, of the best", SHARE, share))
    show_table(
        f"{kind}, {workers} workers",
        ("load", "requests", "goodput/s", "attained", "served", "ends", "TTFT p99 ms"),
        [_line(f"{load:.2f}", trials[load]) for load in sorted(trials)]
        + [_line("burst", burst)],
    )
    good = show_rows(rows)
    results: dict[str, Any] = {
        f"{load:.2f}": summary(trial.outcomes, trial.seconds) for load, trial in trials.items()
    }
    deliver(found(
        "routing overload", settings={**chosen(options), "machine": machine.name},
        metrics=results, rows=rows,
    ), options.json)
    return 0 if good else 1


def _burst(
    run: Any, kind: str, rate: float, peak: float, seconds: float
) -> tuple[Trial, list[Row]]:
    """A steady load, a burst in its middle, and the same again."""
    begin = WARM + seconds / 2
    end = begin + 20.0
    last = end + RECOVERY + seconds / 2
    parts = [Part(kind, rate, 0.0, last), Part(kind, peak - rate, begin, end)]
    trial = run(parts, (WARM, last))
    before = attainment(window(trial.outcomes, WARM, begin))
    after = attainment(window(trial.outcomes, end + RECOVERY, last))
    return trial, [
        at_least(f"attained from {RECOVERY:g} s after the burst on, of that before it", 0.97,
                 after / before if before else 0.0),
        at_most("longest wait for a first token, s",
                10 * max(o.targets.ttft or 0.0 for o in trial.outcomes),
                max((o.ttft or 0.0 for o in trial.outcomes), default=0.0)),
    ]


def _line(name: str, trial: Trial) -> tuple[object, ...]:
    figures = summary(trial.outcomes, trial.seconds)
    ends = ", ".join(f"{end} {number}" for end, number in figures["ends"].items())
    return (name, figures["requests"], figures["goodput_per_s"], figures["attainment"],
            figures["served"], ends, figures["ttft_ms"]["p99"])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing overload", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kind", choices=KINDS, default="chat")
    parser.add_argument("--seconds", type=float, default=40.0, help="that count, of each run")
    parser.add_argument("--machine", help="as for suite")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))


