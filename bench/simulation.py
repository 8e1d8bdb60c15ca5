"""`baton bench simulator FILE`: how fast the simulator is, on a trace, and how far it agrees with
itself.

    hits     of the trace's own prefix blocks, with a cache that forgets nothing
    whole    the whole trace step by step: seconds, memory; a part of it twice, which must be equal
    forward  the whole trace in fast-forward, against that
    short    requests of a few hundred tokens in fast-forward: how many a second
    where    which packages the time goes to

Workers are nodes of eight devices of 80 GB with a model of 70 billion parameters, as where the
trace of Mooncake was published, half of them for prompts at first; the router and its controller
are those that serve. Seconds are of one core's time, which a busy machine does not stretch as it
does the clock's. For the whole hour of Mooncake's trace that is some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from baton.bench.durations import duration
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.trial import Timed, disagreement, identical, simulate, where
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.tokens import random_tokens
from baton.bench.workloads.traces import Traced, read_trace, replay
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Targets

PARTS = ("hits", "whole", "forward", "short", "where")
PUBLISHED_HITS = {"mooncake_conversation": 0.366}
"""By the name of the file; the share of blocks."""
WANTED_SECONDS, WANTED_RATE, WANTED_AGREEMENT = 120.0, 10_000.0, 0.02
HITS_WITHIN = 0.001
MAX_TOKENS = 2048
SHORT_PROMPT, SHORT_OUTPUT = 200, 100
SMALL_VOCABULARY = 256
"""Tokens only have to differ, and Python keeps integers below that: a prompt is no objects then."""


def node(block_size: int) -> Machine:
    """70 billion parameters in 16 bits (80 layers, hidden size 8192, 8 heads of KV) on eight
    devices of 80 GB, 2 TB/s and 312 TFLOP/s, of which 80 % and 50 % are reached; 50 GB/s between
    nodes."""
    weights, layers, hidden, devices = 2 * 70e9, 80, 8192, 8
    bandwidth, arithmetic = devices * 0.8 * 2e12, devices * 0.5 * 312e12
    layout = KVLayout(layers, 8, 128, block_size, "bfloat16")
    return Machine(
        name="node-70b",
        curve=StepCurve(
            base=weights / bandwidth + 3e-3,
            chunk=1e-3,
            token=weights / arithmetic,
            pair=4 * layers * hidden / arithmetic,
            decode=40e-6,
            context=layout.block_bytes / block_size / bandwidth,
            spread=0.05,
            steps=1000,
        ),
        link=LinkCurve(latency=0.5e-3, byte=1 / 50e9, spread=0.1, transfers=100),
        layout=layout,
        num_blocks=int((devices * 0.9 * 80e9 - weights) / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=131_072, max_running=128, max_batch_tokens=2048, prefill_chunk=512
        ),
    )


def infinite_hits(trace: Sequence[Traced]) -> tuple[int, int]:
    """(hits, all) of the parts that the trace names: those that came before, as far as all parts
    before them in their prompt did."""
    known: set[str] = set()
    hits = total = 0
    for traced in trace:
        names = [name for name, _ in traced.parts]
        total += len(names)
        for name in names:
            if name not in known:
                break
            hits += 1
        known.update(names)
    return hits, total


def short_requests(count: int, rate: float, targets: Targets, seed: int) -> list[Arrival]:
    """Poisson, all alike, with prompts of their own."""
    random, at, arrivals = Random(seed), 0.0, []
    for number in range(count):
        at += random.expovariate(rate)
        arrivals.append(Arrival(
            at=at, prompt=partial(random_tokens, number, SHORT_PROMPT, SMALL_VOCABULARY),
            length=SHORT_OUTPUT, limit=MAX_TOKENS, noise=random.getrandbits(32), kind="short",
            targets=targets,
        ))
    return arrivals


class Bench:
    """What is measured, in the order of PARTS."""

    def __init__(self, options: argparse.Namespace) -> None:
        named = options.machine
        machine = node(options.block_size) if named is None else load_machine(named)
        self.options = options
        self.machine = machine
        self.targets = Targets(ttft=options.ttft, itl=options.itl)
        self.workers = [
            ("prefill" if n < options.workers // 2 else "decode", machine)
            for n in range(options.workers)
        ]
        self.trace = read_trace(options.file)
        self.metrics: dict[str, Any] = {}
        self.rows: list[Row] = []
        self._whole: Timed | None = None

    def arrivals(self, seconds: float | None) -> list[Arrival]:
        return list(replay(
            self.trace, start=self.options.start, seconds=seconds, max_tokens=MAX_TOKENS,
            longest=self.machine.limits.max_model_len - MAX_TOKENS, targets=self.targets,
            vocabulary=SMALL_VOCABULARY,
        ))

    def run(self, arrivals: Sequence[Arrival], *, fast_forward: bool) -> Timed:
        return simulate(
            self.workers, arrivals, self.targets, seed=self.options.seed,
            fast_forward=fast_forward, sizing=not self.options.no_sizing,
        )

    # -- parts -------------------------------------------------------------------------------

    def hits(self) -> None:
        hits, total = infinite_hits(self.trace)
        if not total:
            return
        self.metrics["hits"] = {"hits": hits, "blocks": total, "share": round(hits / total, 5)}
        published = PUBLISHED_HITS.get(self.options.file.stem)
        if published is not None:
            self.rows.append(Row(
                "prefix blocks found by an infinite cache", f"{published:.1%}",
                f"{hits / total:.2%}", abs(hits / total - published) <= HITS_WITHIN,
            ))

    def whole(self) -> None:
        timed = self._step_by_step()
        self.metrics["step_by_step"] = timed.figures()
        self.rows.append(at_most(
            f"seconds of one core for {self._length(timed)} on {self.options.workers} workers, "
            "step by step", WANTED_SECONDS, timed.processor, 1,
        ))
        part = self.arrivals(self.options.part)
        twice = [self.run(part, fast_forward=False).run for _ in range(2)]
        self._equal(f"{len(part)} requests twice with one seed", "identical", identical(*twice))

    def forward(self) -> None:
        whole, timed = self._step_by_step(), self.run(
            self.arrivals(self.options.seconds), fast_forward=True
        )
        differs = disagreement(whole.run, timed.run)
        self.metrics["fast_forward"] = {
            **timed.figures(), "differs": differs, "identical": identical(whole.run, timed.run)
        }
        self.rows += [
            at_most("fast-forward: attainment and percentiles differ by", WANTED_AGREEMENT,
                    max(differs.values()), 4),
            at_least("fast-forward: requests a second, this trace", WANTED_RATE,
                     timed.per_second, 0),
        ]

    def short(self) -> None:
        """At half of what the decode workers can do."""
        shape = self.machine.curve.base + 32 * self.machine.curve.decode
        rate = 0.5 * self.options.workers / 2 * 64 / (SHORT_OUTPUT * shape)
        arrivals = short_requests(self.options.short, rate, self.targets, self.options.seed)
        timed = self.run(arrivals, fast_forward=True)
        self.metrics["short"] = {
            "prompt": SHORT_PROMPT, "output": SHORT_OUTPUT, "rate": round(rate, 1),
            **timed.figures(),
        }
        self.rows.append(at_least(
            f"fast-forward: requests a second, {SHORT_PROMPT} tokens in and {SHORT_OUTPUT} out",
            WANTED_RATE, timed.per_second, 0,
        ))

    def where(self) -> None:
        part = self.arrivals(self.options.part)
        self.metrics["where"] = {
            name: where(self.workers, part, self.targets, seed=self.options.seed,
                        fast_forward=forward, sizing=not self.options.no_sizing)
            for name, forward in (("step_by_step", False), ("fast_forward", True))
        }

    # -- inside ------------------------------------------------------------------------------

    def _step_by_step(self) -> Timed:
        if self._whole is None:
            self._whole = self.run(self.arrivals(self.options.seconds), fast_forward=False)
        return self._whole

    def _length(self, timed: Timed) -> str:
        return f"{timed.run.seconds:.0f} s and {len(timed.run.outcomes)} requests"

    def _equal(self, what: str, wanted: str, holds: bool) -> None:
        self.rows.append(Row(what, wanted, wanted if holds else "not so", holds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    bench = Bench(options)
    for part in PARTS:
        if part in options.parts:
            getattr(bench, part)()
    result = found(
        "simulator",
        settings={**chosen(options, "file"), "file": options.file.name,
                  "machine": bench.machine.name},
        metrics=bench.metrics,
        rows=bench.rows,
    )
    if not deliver(result, options.json):
        _show(bench)
        show_rows(bench.rows)
    return 0 if all(row.holds for row in bench.rows) else 1


def _show(bench: Bench) -> None:
    runs = {name: bench.metrics[name] for name in ("step_by_step", "fast_forward", "short")
            if name in bench.metrics}
    names = list(dict.fromkeys(name for figures in runs.values() for name in figures))
    lines = [
        (name, *(figures.get(name, "") for figures in runs.values()))
        for name in names if name not in ("differs",)
    ]
    if runs:
        show_table(f"{bench.options.file.name} on {len(bench.workers)} x {bench.machine.name}",
                   ("", *runs), lines)
    shares = bench.metrics.get("where")
    if shares:
        packages = list(dict.fromkeys(name for share in shares.values() for name in share))
        show_table("share of the time", ("package", *shares), [
            (name, *(f"{share.get(name, 0.0):.1%}" for share in shares.values()))
            for name in packages
        ])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench simulator", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--start", type=duration, default=0.0, metavar="DURATION")
    parser.add_argument("--seconds", type=float, help="of the trace; default: all")
    parser.add_argument("--part", type=float, default=120.0, metavar="SECONDS",
                        help="of the trace, for what is done several times")
    parser.add_argument("--short", type=int, default=5000, help="short requests")
    parser.add_argument("--block-size", type=int, default=512,
                        help="tokens of a KV block of these nodes; the trace names prefixes by 512")
    parser.add_argument("--ttft", type=duration, default=30.0, metavar="DURATION")
    parser.add_argument("--itl", type=duration, default=0.1, metavar="DURATION")
    parser.add_argument("--no-sizing", action="store_true", help="roles stay as they are")
    parser.add_argument("--machine", help="other workers; as for `bench routing`")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
