"""What a comparison found, as a result and as tables."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from baton.bench.compare.agreement import Agreement
from baton.bench.compare.capacities import ratios
from baton.bench.compare.options import Chosen
from baton.bench.compare.planned import pairs, rows
from baton.bench.compare.statistics import level_of
from baton.bench.compare.trials import Failure, Trials
from baton.bench.compare.verdict import Standing, sentences, standings
from baton.bench.compare.wants import rows as wanted_rows
from baton.bench.report import console, show_rows, show_table
from baton.bench.results import Result, Row, found


def as_result(
    options: argparse.Namespace,
    trials: Trials,
    agreements: dict[str, Agreement],
    chosen: Chosen,
    *,
    early: str | None = None,
) -> Result:
    """`agreements`: of answers, by layout. `early`: why it did not go on to its end."""
    capacities = trials.searched
    ours = {layout.name for layout in chosen.layouts if layout.ours}
    families = {layout.name: layout.family for layout in chosen.layouts}
    verdict = [
        *([f"ENDED EARLY, {early}: what follows is of these alone."] if early else ()),
        *_remarks(trials.failed),
        *sentences(trials.runs, capacities, options.attainment, families),
    ]
    settings: dict[str, Any] = {
        "model": options.model or "embedded",
        "load": options.load,
        **({"lengths": options.lengths} if options.lengths != 1.0 else {}),
        "ttft": options.ttft,
        "itl": options.itl,
        **({"e2e": options.e2e} if options.e2e is not None else {}),
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
        versions=chosen.versions,
        metrics={
            "verdict": verdict,
            **({"ended_early": early} if early else {}),
            **({"failed": [asdict(each) for each in trials.failed]} if trials.failed else {}),
            "capacity_per_s": {
                name: {**level_of([each.holds for each in found_]).to_dict(),
                       "at_least": any(each.fails == math.inf for each in found_)}
                for name, found_ in capacities.items()
            },
            "capacity_ratio": [
                {"ours": one, "theirs": other, **ratio.to_dict(), "how": how.strip()}
                for one, other, ratio, how in ratios(capacities, families)
            ],
            "answers": {name: each.to_dict() for name, each in agreements.items()},
        },
        rows=[
            *([Row("measurement", "to its end", f"ENDED EARLY, {early}", False)] if early else ()),
            *(Row(f"runs of {name}", "all of them", f"{len(why)} FAILED: {_short(why[0].why)}",
                  False) for name, why in _by_layout(trials.failed).items()),
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
    if trials.runs:
        show_table(
            f"{settings['load']}, {targets_in_words(settings)}; {settings['repeat']} times each",
            ("layout", "requests/s", "goodput/s", "in time", "TTFT mean", "P50", "P99 ms",
             "ITL P50", "P99 ms", "tokens/s"),
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


def targets_in_words(settings: Mapping[str, Any]) -> str:
    """Of a result's settings."""
    e2e = settings.get("e2e")
    return f"TTFT {1e3 * settings['ttft']:g} ms, ITL {1e3 * settings['itl']:g} ms" + (
        "" if e2e is None else f", E2E {1e3 * e2e:g} ms"
    )


# -- inside ----------------------------------------------------------------------------------


def _agreement_row(name: str, agreement: Agreement, ours: bool) -> Row:
    seen = f"{agreement.same} of {agreement.compared} same, {agreement.ties} near ties"
    if agreement.unchecked:
        seen += f", {agreement.unchecked} not looked at"
    if agreement.changed:
        seen += f", {agreement.changed} CHANGED"
    # Others may compute in another way; ours must not.
    return Row(f"answers of {name}", "the same" if ours else "told only", seen,
               agreement.changed == 0 or not ours)


def _remarks(failed: Sequence[Failure]) -> list[str]:
    """Before anything else, for what follows knows less than it should."""
    return [
        f"NOT ALL WAS MEASURED: {name} failed {len(each)} times, first for {each[0].doing}: "
        f"{_short(each[0].why)}."
        for name, each in _by_layout(failed).items()
    ]


def _by_layout(failed: Sequence[Failure]) -> Mapping[str, list[Failure]]:
    found: dict[str, list[Failure]] = {}
    for each in failed:
        found.setdefault(each.layout, []).append(each)
    return found


def _short(why: str) -> str:
    """The first line, and the last one that says something: of a process, what it died of."""
    lines = [line.strip() for line in why.splitlines() if line.strip()]
    return " ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "it does not say why"
