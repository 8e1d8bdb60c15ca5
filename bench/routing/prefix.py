"""`baton bench routing prefix`: conversations and agents with shared instructions over several
prefill workers: what their caches find, against one infinite cache, and how even the work is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import add_json, chosen, deliver, found
from baton.bench.routing.systems import automatic, split
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.simulator.outcome import summary
from baton.bench.workloads.arrival import Arrival, output_tokens
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.workload import Part
from baton.protocol.hashing import Chain

WARM = 20.0


def infinite_hit_rate(stream: Iterable[Arrival], block_size: int, start: float) -> float:
    """Prompt tokens of requests from `start` on that one cache would have which forgets nothing
    and has each prompt, and its answer, as soon as it arrives."""
    known: set[bytes] = set()
    hits = total = 0
    for arrival in stream:
        prompt = arrival.prompt()
        chain = Chain(b"root")
        chain.extend(prompt, block_size)
        found = 0
        for name in chain.hashes:
            if name not in known:
                break
            found += 1
        chain.extend(prompt + output_tokens(arrival), block_size)
        known.update(chain.hashes)
        if arrival.at >= start:
            # As a worker does, which computes at least the last token.
            hits += min(found, (len(prompt) // 4 - 1) // block_size) * block_size
            total += len(prompt) // 4
    return hits / total if total else 0.0


def evenness(trial: Trial, measure: str = "busy") -> float:
    """Load of the busiest prefill worker, over the mean of all. Load is seconds in steps: what
    others have to wait for, whatever it is spent on. A token of a prompt is no measure of it: it
    takes as long as it has tokens before it to attend to, and one worker's time may be full of
    tokens that it decodes where another one reads more. (`prompt_tokens` is shown beside it.)"""
    work = [
        getattr(w, measure) for name, w in trial.run.work.items() if name.startswith("prefill")
    ]
    return max(work) * len(work) / sum(work) if any(work) else 1.0


def busy(trial: Trial) -> str:
    """Share of their time that workers were in a step."""
    return " ".join(f"{w.busy / trial.run.seconds:.2f}" for w in trial.run.work.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    kind, workers = options.kind, 2 * options.prefills
    targets = targets_for(machine, KINDS[kind].prompt)
    rate = options.load * workers * capacity(kind, machine, targets)
    end = WARM + options.seconds
    parts = [Part(kind, rate, 0.0, end)]
    ideal = infinite_hit_rate(
        arrivals(parts, machine, options.seed), machine.layout.block_size, WARM
    )
    trials = [
        run_trial(system, machine, arrivals(parts, machine, options.seed),
                  lanes=lanes_for(targets), count=(WARM, end), seed=options.seed)
        for system in (
            replace(automatic(workers), automatic=False),  # roles stay: they are what is judged
            split(options.prefills, workers - options.prefills),
        )
    ]
    figures = {trial.system: summary(trial.outcomes, trial.seconds) for trial in trials}
    show_table(
        f"{kind}, {options.prefills} prefill and {workers - options.prefills} decode workers",
        ("system", "requests", "hit rate", "attained", "TTFT p50", "p99 ms", "busiest / mean",
         "by tokens", "busy"),
        [(trial.system, f["requests"], f["hit_rate"], f["attainment"], f["ttft_ms"]["p50"],
          f["ttft_ms"]["p99"], f"{evenness(trial):.2f}",
          f"{evenness(trial, 'prompt_tokens'):.2f}", busy(trial))
         for trial, f in zip(trials, figures.values(), strict=True)]
        + [("one infinite cache", "", round(ideal, 4), "", "", "", "", "", "")],
    )
    ours = figures["auto"]
    rows = [
        at_least("hit rate, of one infinite cache's", 0.9, ours["hit_rate"] / ideal),
        at_most("seconds in steps of the busiest prefill worker, over the mean", 1.5,
                evenness(trials[0])),
    ]
    good = show_rows(rows)
    deliver(found(
        "routing prefix", settings={**chosen(options), "machine": machine.name},
        metrics={"systems": figures, "ideal": ideal}, rows=rows,
    ), options.json)
    return 0 if good else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing prefix", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prefills", type=int, default=4, help="and as many that decode")
    parser.add_argument("--kind", choices=KINDS, default="agent")
    parser.add_argument("--load", type=float, default=0.5, help="of what the cluster could do")
    parser.add_argument("--seconds", type=float, default=60.0, help="that count")
    parser.add_argument("--machine", help="as for suite")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
