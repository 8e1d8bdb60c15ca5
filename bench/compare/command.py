"""`baton bench compare`: the same load on colocated and disaggregated layouts of equal resources.

Chunked prefill is tuned first (and the split, where there are several). Then layouts take turns,
over several repetitions with the same requests for all of a pair. The verdict says where
disaggregation wins, where it loses, by how much, and why. Answers are greedy, and are compared
token by token between layouts: they may differ only where the two best tokens are as likely.

Ctrl-C ends it early: what was measured is shown and written all the same, and says so.

  baton bench compare                                      # two workers, a mixed load
  baton bench compare --load 512/64 --rates 0.8 1.4 2.2 --peer vllm=http://127.0.0.1:8000
  baton bench compare --paced profile.json --workers 8 --load chat
  baton bench compare --load chat --plan plan.json         # was the plan right?
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from baton.bench.compare import options as reading
from baton.bench.compare.agreement import Agreement, check_answers
from baton.bench.compare.layouts import COLOCATED, Layout
from baton.bench.compare.measure import Run, measure
from baton.bench.compare.options import Chosen
from baton.bench.compare.result import as_result, show
from baton.bench.compare.trials import MOST_PROBES, MOST_TUNING, Trials
from baton.bench.report import console
from baton.bench.results import Result, deliver
from baton.protocol.errors import ConfigError

_AROUND = (0.7, 1.0, 1.3)
"""Of the best colocated capacity: the rates that are measured unless they are named."""
_AROUND_RUN = 8.0
"""Seconds to start and end a cluster, and until the last answers are here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where answers differed, a criterion does not hold, or a run failed
    (the others count all the same); STOPPED where Ctrl-C ended it and something was measured.
    Raises ConfigError, also where nothing could be measured."""
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
    planned, about = _duration(chosen.layouts, options)
    say.print(about, highlight=False)
    try:
        agreements, early = _measured(trials, chosen, options, planned)
        # Before servers are ended, for that may take a while, and a second Ctrl-C.
        result = as_result(options, trials, agreements, chosen, early=early)
        _tell(result, trials, options)
    finally:
        chosen.close()
    if early is not None:
        say.print(f"ended early: {early}", highlight=False, markup=False)
        return reading.STOPPED
    return 0 if all(row.holds for row in result.rows) else 1


def _measured(
    trials: Trials, chosen: Chosen, options: argparse.Namespace, planned: int
) -> tuple[dict[str, Agreement], str | None]:
    """What answers were like, and why it ended early, or None. Raises KeyboardInterrupt where that
    came before anything was measured."""
    try:
        layouts = _run(trials, chosen.layouts, options)
        return _agreements(trials, chosen, layouts, options.dtype), None
    except KeyboardInterrupt:
        if not trials.measured:
            raise
        early = f"Ctrl-C after {trials.measured} of at most {planned} runs"
        unasked = check_answers(trials.runs, chosen.layouts, chosen.load, options.dtype, None)
        return unasked, early


def _tell(result: Result, trials: Trials, options: argparse.Namespace) -> None:
    if not deliver(result, options.json):
        show(result, trials)
    if options.html:
        from baton.bench.plots.html import write_report

        write_report([result], Path(options.html))


def _run(
    trials: Trials, layouts: list[Layout], options: argparse.Namespace
) -> list[Layout]:
    """What was measured in the end."""
    rates = options.rates
    if not options.no_tuning:
        layouts = trials.tune(layouts, reading.begin(options))
    if options.capacity or not rates:
        trials.capacities(layouts, reading.begin(options), options.repeat)
    if not rates:
        held = {name: fmean(c.holds for c in found) for name, found in trials.searched.items()}
        best = max((held.get(each.name, 0.0) for each in layouts if each.family == COLOCATED),
                   default=0.0) or max(held.values(), default=0.0)
        if best <= 0 and not trials.failed:
            raise ConfigError(
                "no layout holds any rate: longer targets (--ttft, --itl), or a lower --start"
            )
        # Of what failed a result says why; there are no rates then.
        rates = [float(f"{part * best:.2g}") for part in _AROUND] if best > 0 else []
    trials.repeat(layouts, rates, options.repeat)
    if trials.failed and not trials.measured:
        first = trials.failed[0]
        raise ConfigError(f"nothing could be measured; {first.layout}: {first.why}")
    return layouts


def _agreements(
    trials: Trials, chosen: Chosen, layouts: Sequence[Layout], dtype: str
) -> dict[str, Agreement]:
    try:
        return check_answers(trials.runs, layouts, chosen.load, dtype, chosen.start)
    except ConfigError as error:
        trials.fail(next(layout for layout in layouts if layout.ours), "answers", error)
        return check_answers(trials.runs, layouts, chosen.load, dtype, None)


def _duration(layouts: Sequence[Layout], options: argparse.Namespace) -> tuple[int, str]:
    """(runs at most, how long they take at most), for who has to wait."""
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
    return runs, f"at most {runs} runs, {minutes:.0f} minutes"
