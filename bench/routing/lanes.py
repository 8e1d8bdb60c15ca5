"""`baton bench routing lanes`: people's requests alone, and beside a flood of the batch lane."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from heapq import merge

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import add_json, chosen, deliver, found
from baton.bench.routing.systems import automatic
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, in_lane, targets_for
from baton.bench.simulator.outcome import Outcome, quantile, summary
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.workload import Part
from baton.router.lanes import BATCH, INTERACTIVE

WARM = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    targets = targets_for(machine, KINDS["chat"].prompt)
    lanes = lanes_for(targets)
    end = WARM + options.seconds

    def rate(kind: str) -> float:
        workers: int = options.workers
        return workers * capacity(kind, machine, targets_for(machine, KINDS[kind].prompt))

    def people() -> Iterator[Arrival]:
        return arrivals([Part("chat", options.load * rate("chat"), 0.0, end)], machine,
                        options.seed)

    def flood() -> Iterator[Arrival]:
        parts = [Part(options.batch, options.flood * rate(options.batch), 0.0, end)]
        stream = arrivals(parts, machine, options.seed + 1)
        return in_lane(stream, BATCH, lanes.named(BATCH).targets)

    def run(stream: Iterator[Arrival]) -> Trial:
        return run_trial(automatic(options.workers), machine, stream, lanes=lanes,
                         count=(WARM, end), seed=options.seed, limit=30.0)

    alone = run(people())
    beside = run(merge(people(), flood(), key=lambda arrival: arrival.at))
    mine = {"alone": _lane(alone, INTERACTIVE), "beside": _lane(beside, INTERACTIVE)}
    batch = _lane(beside, BATCH)
    p99 = {name: _p99(outcomes) for name, outcomes in mine.items()}
    figures = {name: summary(outcomes, end - WARM)
               for name, outcomes in (*mine.items(), ("batch", batch))}
    show_table(
        f"{options.workers} workers, {options.flood:g} times what they can do in the batch lane",
        ("lane", "requests", "attained", "TTFT p50", "p99 ms", "ITL p99", "output tokens/s"),
        [(name, f["requests"], f["attainment"], f["ttft_ms"]["p50"], f["ttft_ms"]["p99"],
          f["itl_ms"]["p99"], f["output_tokens_per_s"]) for name, f in figures.items()],
    )
    rows = [
        at_most("P99 TTFT of the interactive lane, beside the flood over alone", 1.2,
                p99["beside"] / p99["alone"]),
        at_least("attained in the interactive lane, beside the flood over alone", 0.97,
                 figures["beside"]["attainment"] / max(1e-9, figures["alone"]["attainment"])),
    ]
    good = show_rows(rows)
    deliver(found(
        "routing lanes", settings={**chosen(options), "machine": machine.name},
        metrics=figures, rows=rows,
    ), options.json)
    return 0 if good else 1


def _lane(trial: Trial, lane: str) -> list[Outcome]:
    return [outcome for outcome in trial.outcomes if outcome.lane == lane]


def _p99(outcomes: Sequence[Outcome]) -> float:
    """Who got no first token counts as the worst."""
    return quantile([60.0 if o.ttft is None else o.ttft for o in outcomes], 0.99) or 0.0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing lanes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--load", type=float, default=0.4, help="of people's requests")
    parser.add_argument("--flood", type=float, default=2.0, help="of the batch lane")
    parser.add_argument("--batch", choices=KINDS, default="summarise", help="what that asks for")
    parser.add_argument("--seconds", type=float, default=60.0, help="that count")
    parser.add_argument("--machine", help="as for suite")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
