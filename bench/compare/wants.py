"""Criteria of a comparison, said on the command line: LAYOUT FIGURE <= or >= FACTOR times LAYOUT.

    split 1+1: itl_p99_ms <= 0.333 * vllm-split
    split 1+1: goodput_per_s >= 1.5 * colocated

A layout is named by its name or its family, of which the best at that rate counts. Each criterion
is judged at each rate that was measured, by the repetitions of both that had the same requests: it
holds where all of the interval of their ratio does. So one repetition is not enough. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.compare.layouts import DISAGGREGATED, Layout
from baton.bench.compare.measure import FIGURES
from baton.bench.compare.statistics import Interval, difference_of, ratio_of
from baton.bench.compare.verdict import Standing, best_of, paired
from baton.bench.results import Row
from baton.protocol.errors import ConfigError

DISAGGREGATION = "disaggregated"
"""The best of all that hand over."""
_FORM = re.compile(r"(.+?):\s*(\w+)\s*(<=|>=)\s*([0-9.]+)\s*\*\s*(.+?)\s*")
_EXAMPLE = '"split 1+1: itl_p99_ms <= 0.333 * colocated"'


@dataclass(frozen=True, slots=True)
class Want:
    ours: str
    figure: str
    most: bool
    """At most so many times theirs; else at least."""
    factor: float
    theirs: str
    rates: tuple[float, ...] = ()
    """Empty: at all of them."""


def parse(text: str) -> Want:
    """With " @ 1.4,2.2" at its end for some rates only. Raises ConfigError."""
    body, _, at = text.partition("@")
    found = _FORM.fullmatch(body.strip())
    if not found:
        raise ConfigError(f"--want {text!r}: must be such as {_EXAMPLE}")
    if found[2] not in FIGURES:
        raise ConfigError(
            f"--want {text!r}: no figure {found[2]!r}; there are: {', '.join(FIGURES)}"
        )
    try:
        rates = tuple(float(rate) for rate in at.split(",")) if at else ()
        factor = float(found[4])
    except ValueError as error:
        raise ConfigError(f"--want {text!r}: {error}") from error
    return Want(found[1].strip(), found[2], found[3] == "<=", factor, found[5].strip(), rates)


def check(
    wants: Sequence[Want], layouts: Sequence[Layout], *, rates: Sequence[float] | None,
    tuned: bool, repeat: int,
) -> None:
    """Before hours of runs: can all of it be judged? `rates`: that are measured, None where they
    are yet to be found. `tuned`: only the best of each family is measured. Raises ConfigError."""
    if wants and repeat < 2:
        raise ConfigError("--want is judged by intervals, which one repetition has not: --repeat 2 "
                          "or more")
    for want in wants:
        for name in (want.ours, want.theirs):
            _check_name(name, layouts, tuned)
        if want.rates and rates is None:
            raise ConfigError(f"--want ... @ {want.rates[0]:g}: give --rates, among which these "
                              "have to be")
        missing = [rate for rate in want.rates if not any(_same(rate, r) for r in rates or ())]
        if missing:
            raise ConfigError(f"--want ... @ {missing[0]:g}: not one of --rates")


def rows(wants: Sequence[Want], found: Sequence[Standing]) -> list[Row]:
    """One for each criterion and rate. What was not measured does not hold."""
    made = []
    for want in wants:
        for rate in want.rates or sorted({each.rate for each in found}):
            here = [each for each in found if _same(each.rate, rate)]
            made.append(_row(want, rate, here))
    return made


def _row(want: Want, rate: float, here: Sequence[Standing]) -> Row:
    ours, theirs = _named(want.ours, here), _named(want.theirs, here)
    sign = "<=" if want.most else ">="
    what = f"{want.figure} of {want.ours} over {want.theirs}, {rate:g} requests/s"
    wanted = f"{sign} {want.factor:g}"
    mine, other = paired(ours, theirs, want.figure) if ours and theirs else ([], [])
    if not mine:
        return Row(what, wanted, "not measured", False)
    return Row(what, wanted, _said(ratio_of(mine, other)), _holds(want, mine, other))


def _holds(want: Want, mine: Sequence[float], other: Sequence[float]) -> bool:
    """All of the interval: of the ratio, or where a zero leaves none, of what is beyond the factor
    times theirs."""
    ratio, even = ratio_of(mine, other), want.factor
    if not ratio.known:
        ratio, even = difference_of(mine, [want.factor * value for value in other]), 0.0
    return ratio.known and (ratio.high <= even if want.most else ratio.low >= even)


def _named(name: str, here: Sequence[Standing]) -> Standing | None:
    exact = next((each for each in here if each.layout == name), None)
    if exact is not None:
        return exact
    return best_of(DISAGGREGATED if name == DISAGGREGATION else (name,), here)


def _check_name(name: str, layouts: Sequence[Layout], tuned: bool) -> None:
    families = [layout.family for layout in layouts]
    if name in families or (
        name == DISAGGREGATION and any(family in DISAGGREGATED for family in families)
    ):
        return
    layout = next((layout for layout in layouts if layout.name == name), None)
    if layout is None:
        there = dict.fromkeys([*(layout.name for layout in layouts), *families])
        raise ConfigError(f"--want: no layout {name!r} is measured; there are: {', '.join(there)}")
    if tuned and families.count(layout.family) > 1:
        raise ConfigError(
            f"--want: {name} is measured only if it is the best of its family: say "
            f"{layout.family}, or --no-tuning"
        )


def _same(one: float, other: float) -> bool:
    return abs(one - other) < 1e-9


def _said(ratio: Interval) -> str:
    return f"{ratio.mid:.3f}" + (f" ({ratio.low:.3f} to {ratio.high:.3f})" if ratio.known else "")
