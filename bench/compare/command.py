"""`baton bench compare`: the same load on colocated and disaggregated layouts of equal resources.

Chunked prefill is tuned first (and the split, where there are several). Then layouts take turns,
over several repetitions with the same requests for all of a pair. The verdict says where
disaggregation wins, where it loses, by how much, and why. Answers are greedy, and are compared
token by token between layouts: they may differ only where the two best tokens are as likely.

  baton bench compare                                      # two workers, a mixed load
  baton bench compare --load 512/64 --rates 0.8 1.4 2.2 --peer vllm=http://127.0.0.1:8000
  baton bench compare --paced profile.json --workers 8 --load chat
  baton bench compare --load chat --plan plan.json         # was the plan right?
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from baton.bench.compare import options as reading
from baton.bench.compare.agreement import TIES, Agreement, Parting, compare, judge
from baton.bench.compare.layouts import COLOCATED, Layout
from baton.bench.compare.measure import Run, measure
from baton.bench.compare.options import Chosen
from baton.bench.compare.planned import pairs, rows
from baton.bench.compare.search import Capacity
from baton.bench.compare.statistics import level_of
from baton.bench.compare.trials import MOST_PROBES, MOST_TUNING, Trials
from baton.bench.compare.verdict import Standing, sentences, standings
from baton.bench.compare.wants import rows as wanted_rows
from baton.bench.faults.judge import two_best
from baton.bench.report import console, show_rows, show_table
from baton.bench.results import Result, Row, deliver, found
from baton.protocol.errors import ConfigError
from baton.protocol.tokens import unpack_tokens

_AROUND = (0.7, 1.0, 1.3)
"""Of the best colocated capacity: the rates that are measured unless they are named."""
_AROUND_RUN = 8.0
"""Seconds to start and end a cluster, and until the last answers are here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where answers differed, or a criterion does not hold. Raises
    ConfigError."""
    options = reading.parse(arguments, __doc__)
    chosen = reading.choose(options)
    say = console()

    def once(
        layout: Layout, rate: float, repetition: int, seed: int, give_up: float | None
    ) -> Run:
        return measure(chosen.start, chosen.serve, layout, chosen.load, rate=rate,
                       repetition=repetition, seed=seed, give_up=give_up)

    trials = Trials(
        once, wanted=options.attainment, seed=options.seed,
        tell=lambda text: say.print(text, highlight=False, markup=False),
    )
    say.print(_duration(chosen.layouts, options), highlight=False)
    try:
        layouts, capacities = _run(trials, chosen.layouts, options)
        agreements = check_answers(trials, chosen, layouts, options.dtype)
    finally:
        chosen.close()
    result = as_result(options, trials, capacities, agreements, chosen)
    if not deliver(result, options.json):
        show(result, trials)
    if options.html:
        from baton.bench.plots.html import write_report

        write_report([result], Path(options.html))
    return 0 if all(row.holds for row in result.rows) else 1


def _run(
    trials: Trials, layouts: list[Layout], options: argparse.Namespace
) -> tuple[list[Layout], dict[str, list[Capacity]]]:
    """What was measured in the end, and capacities where these were looked for."""
    rates = options.rates
    if not options.no_tuning:
        layouts = trials.tune(layouts, rates[0] if rates else options.start)
    capacities = {}
    if options.capacity or not rates:
        start = options.start if options.start != 1.0 or not rates else rates[0]
        capacities = trials.capacities(layouts, start, options.repeat)
    if not rates:
        best = max(
            (fmean(c.holds for c in capacities[each.name]) for each in layouts
             if each.family == COLOCATED),
            default=0.0,
        ) or max(fmean(c.holds for c in found) for found in capacities.values())
        if best <= 0:
            raise ConfigError(
                "no layout holds any rate: longer targets (--ttft, --itl), or a lower --start"
            )
        rates = [float(f"{part * best:.2g}") for part in _AROUND]
    trials.repeat(layouts, rates, options.repeat)
    return layouts, capacities


def _duration(layouts: Sequence[Layout], options: argparse.Namespace) -> str:
    """How long it takes at most, for who has to wait."""
    families = [layout.family for layout in layouts]
    several = [family for family in set(families) if families.count(family) > 1]
    tuning = sum(families.count(family) for family in several) * MOST_TUNING
    left = len(layouts)
    if options.no_tuning:
        tuning = 0
    else:
        left = len(set(families))
    searching = 0
    if options.capacity or not options.rates:
        searching = left * (MOST_PROBES + (options.repeat - 1) * MOST_PROBES // 2)
    repeating = left * len(options.rates or _AROUND) * options.repeat
    runs = tuning + searching + repeating
    minutes = runs * (options.warm_up + options.seconds + _AROUND_RUN) / 60
    return f"at most {runs} runs, {minutes:.0f} minutes"


# -- answers ---------------------------------------------------------------------------------


def check_answers(
    trials: Trials, chosen: Chosen, layouts: Sequence[Layout], dtype: str
) -> dict[str, Agreement]:
    """Of each layout with the first of ours, over the first repetition at the lowest rate. That
    one is started once more where somebody has to say how near a tie was."""
    reference = next((layout for layout in layouts if layout.ours), None)
    if reference is None or not trials.runs:
        return {}
    rate = min(run.point.rate for run in trials.runs)
    first = {run.point.layout: run for run in trials.runs
             if run.point.rate == rate and run.point.repetition == 0}
    base = first[reference.name]
    arrivals = chosen.load.arrivals(rate, base.point.seed)
    compared = {
        layout.name: compare(base.seen, first[layout.name].seen)
        for layout in layouts
        if layout is not reference and len(first[layout.name].seen) == len(base.seen)
    }
    answers = {one.number: one.ids or [] for one in base.seen}

    def prefix(parting: Parting) -> list[int]:
        prompt = unpack_tokens(arrivals[parting.number].prompt())
        return [*prompt, *answers[parting.number][: parting.position]]

    tie = TIES.get(dtype, max(TIES.values()))
    if not any(parted for _, parted in compared.values()):
        return {name: judge(count, [], prefix, None, tie=tie)
                for name, (count, _) in compared.items()}
    with chosen.start(reference) as running:
        return {
            name: judge(count, parted, prefix, lambda ids: two_best(running.url, ids), tie=tie)
            for name, (count, parted) in compared.items()
        }


def _agreement_row(name: str, agreement: Agreement, ours: bool) -> Row:
    seen = f"{agreement.same} of {agreement.compared} same, {agreement.ties} near ties"
    if agreement.unchecked:
        seen += f", {agreement.unchecked} not looked at"
    if agreement.changed:
        seen += f", {agreement.changed} CHANGED"
    # Others may compute in another way; ours must not.
    return Row(f"answers of {name}", "the same" if ours else "told only", seen,
               agreement.changed == 0 or not ours)


# -- the result ------------------------------------------------------------------------------


def as_result(
    options: argparse.Namespace,
    trials: Trials,
    capacities: dict[str, list[Capacity]],
    agreements: dict[str, Agreement],
    chosen: Chosen,
) -> Result:
    ours = {layout.name for layout in chosen.layouts if layout.ours}
    verdict = sentences(trials.runs, capacities, options.attainment)
    settings: dict[str, Any] = {
        "model": options.model or "embedded",
        "load": options.load,
        **({"lengths": options.lengths} if options.lengths != 1.0 else {}),
        "ttft": options.ttft,
        "itl": options.itl,
        "attainment": options.attainment,
        "workers": options.workers,
        "dtype": "paced" if options.paced else options.dtype,
        "seconds": options.seconds,
        "warm_up": options.warm_up,
        "repeat": options.repeat,
        "seed": options.seed,
        "layouts": {each.name: " ".join(each.options or each.command) or each.url
                    for each in chosen.layouts},
    }
    return found(
        "compare",
        settings=settings,
        metrics={
            "verdict": verdict,
            "capacity_per_s": {
                name: {**level_of([each.holds for each in found_]).to_dict(),
                       "at_least": any(each.fails == math.inf for each in found_)}
                for name, found_ in capacities.items()
            },
            "answers": {name: each.to_dict() for name, each in agreements.items()},
        },
        rows=[
            *(_agreement_row(name, each, name in ours) for name, each in agreements.items()),
            *wanted_rows(chosen.wants, standings(trials.runs)),
            *(rows(chosen.plan, standings(trials.runs), capacities) if chosen.plan else ()),
        ],
        series={
            **{name: [msgspec.to_builtins(run.point) for run in runs]
               for name, runs in (("points", trials.runs), ("tuning", trials.tuning),
                                  ("probes", trials.probes))},
            **({"predicted": pairs(chosen.plan, standings(trials.runs), capacities)}
               if chosen.plan else {}),
        },
    )


def show(result: Result, trials: Trials) -> None:
    settings = result.settings
    show_table(
        f"{settings['load']}, TTFT {settings['ttft']:g} s, ITL {settings['itl'] * 1e3:g} ms; "
        f"{settings['repeat']} times each",
        ("layout", "requests/s", "goodput/s", "in time", "TTFT mean", "P50", "P99 ms", "ITL P50",
         "P99 ms", "tokens/s"),
        [_line(each) for each in standings(trials.runs)],
    )
    for sentence in result.metrics["verdict"]:
        console().print(f"- {sentence}", highlight=False, markup=False)
    if result.series.get("predicted"):
        show_table("planned and measured", ("", "requests/s", "planned", "measured", "ratio"), [
            (pair["what"], f"{pair['rate']:.2f}", f"{pair['predicted']:.4g}",
             f"{pair['measured']:.4g}", f"{pair['measured'] / (pair['predicted'] or 1):.2f}")
            for pair in result.series["predicted"]
        ])
    if result.rows:
        show_rows(result.rows)


def _line(each: Standing) -> tuple[object, ...]:
    return (
        each.layout, f"{each.rate:g}", f"{each.mid('goodput_per_s'):.2f}",
        f"{each.mid('attainment'):.1%}", f"{each.mid('ttft_mean_ms'):.0f}",
        f"{each.mid('ttft_p50_ms'):.0f}", f"{each.mid('ttft_p99_ms'):.0f}",
        f"{each.mid('itl_p50_ms'):.1f}", f"{each.mid('itl_p99_ms'):.1f}",
        f"{each.mid('output_tokens_per_s'):.0f}",
    )
