"""`baton bench routing lanes`: people's requests alone, and beside a flood of the batch lane."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

from baton.bench.compare.statistics import mean_of, ratio_of
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.quantiles import quantile
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import add_json, chosen, deliver, found
from baton.bench.routing.systems import automatic
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, in_lane, targets_for
from baton.bench.simulator.outcome import Outcome, attainment
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.workload import Part
from baton.router.lanes import BATCH, INTERACTIVE

WARM = 5.0


@dataclass(frozen=True)
class Pair:
    """One seed: people alone, and the same beside the flood."""

    alone: Trial
    beside: Trial

    @property
    def p99(self) -> tuple[float, float]:
        """Of the time to people's first token, in seconds: beside, alone."""
        return _p99(_lane(self.beside, INTERACTIVE)), _p99(_lane(self.alone, INTERACTIVE))

    @property
    def attained(self) -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            max(1e-9, attainment(_lane(trial, INTERACTIVE))) for trial in (self.beside, self.alone)
        )

    def batch_tokens(self, start: float, end: float) -> float:
        """Output tokens of the batch lane per second that came meanwhile, whenever it was that they
        were asked for: a flood is served in its order, and who comes late in it not at all."""
        outcomes = [o for o in self.beside.run.outcomes if o.lane == BATCH]
        return sum(_tokens_within(outcome, start, end) for outcome in outcomes) / (end - start)


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

    def people(seed: int) -> Iterator[Arrival]:
        return arrivals([Part("chat", options.load * rate("chat"), 0.0, end)], machine, seed)

    def flood(seed: int) -> Iterator[Arrival]:
        parts = [Part(options.batch, options.flood * rate(options.batch), 0.0, end)]
        stream = arrivals(parts, machine, seed + 1000)
        return in_lane(stream, BATCH, lanes.named(BATCH).targets)

    def pair(seed: int) -> Pair:
        streams = people(seed), merge(people(seed), flood(seed), key=lambda arrival: arrival.at)
        return Pair(*(
            run_trial(automatic(options.workers), machine, stream, lanes=lanes,
                      count=(WARM, end), seed=seed, limit=30.0)
            for stream in streams
        ))

    pairs = {seed: pair(seed) for seed in range(options.seed, options.seed + options.seeds)}
    whole = sum(lane.weight for lane in lanes)
    share = lanes.named(BATCH).weight / whole * rate(options.batch) * KINDS[options.batch].output
    lines = [
        (seed, *(round(1e3 * each) for each in reversed(p.p99)), *reversed(p.attained),
         p.batch_tokens(WARM, end))
        for seed, p in pairs.items()
    ]
    show_table(
        f"{options.workers} workers, people at {options.load:g} of what they can do, "
        f"{options.flood:g} times that in the batch lane",
        ("seed", "people's P99 TTFT ms, alone", "beside", "attained, alone", "beside",
         "batch, output tokens/s"),
        lines,
    )
    slower = ratio_of(*zip(*(p.p99 for p in pairs.values()), strict=True))
    kept = ratio_of(*zip(*(p.attained for p in pairs.values()), strict=True))
    batch = mean_of([p.batch_tokens(WARM, end) for p in pairs.values()])
    rows = [
        at_most("P99 TTFT of the interactive lane, beside the flood over alone, mean", 1.2,
                slower.mid),
        at_least("attained in the interactive lane, beside the flood over alone, mean", 0.97,
                 kept.mid),
        at_least("output tokens/s of the batch lane over its share by weight, mean", 1.0,
                 batch.mid / share),
    ]
    good = show_rows(rows)
    found_ = {"p99_ratio": slower, "attained_ratio": kept, "batch_tokens_per_s": batch}
    for name, interval in found_.items():
        print(f"{name}: {interval.mid:.3f} [{interval.low:.3f}, {interval.high:.3f}] at 95 %")
    deliver(found(
        "routing lanes", settings={**chosen(options), "machine": machine.name},
        metrics={name: interval.to_dict() for name, interval in found_.items()},
        series={"seeds": [dict(zip(COLUMNS, line, strict=True)) for line in lines]},
        rows=rows,
    ), options.json)
    return 0 if good else 1


COLUMNS = ("seed", "p99_alone_ms", "p99_beside_ms", "attained_alone", "attained_beside",
           "batch_tokens_per_s")


def _tokens_within(outcome: Outcome, start: float, end: float) -> float:
    """Of the request's tokens, taken to come evenly."""
    if outcome.ttft is None or outcome.last is None:
        return 0.0
    first, last = outcome.at + outcome.ttft, outcome.at + outcome.last
    if last <= first:
        return float(outcome.tokens if start <= first < end else 0)
    return outcome.tokens * max(0.0, min(last, end) - max(first, start)) / (last - first)


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
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=5)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
