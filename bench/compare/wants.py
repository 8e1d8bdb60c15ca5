"""Criteria of a comparison, said on the command line: LAYOUT FIGURE <= or >= FACTOR times LAYOUT.

    split 1+1: itl_p99_ms <= 0.333 * vllm-split
    split 1+1: goodput_per_s >= 1.5 * colocated

A layout is named by its name or its family, of which the best at that rate counts. Each criterion
is judged at each rate that was measured. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.compare.statistics import Interval, ratio_of
from baton.bench.compare.verdict import DISAGGREGATED, Standing, best_of
from baton.bench.results import Row
from baton.protocol.errors import ConfigError

DISAGGREGATION = "disaggregated"
"""The best of all that hand over."""
_FORM = re.compile(r"(.+?):\s*(\w+)\s*(<=|>=)\s*([0-9.]+)\s*\*\s*(.+?)\s*")


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
        raise ConfigError(
            f'--want {text!r}: must be such as "split 1+1: itl_p99_ms <= 0.333 * colocated"'
        )
    try:
        rates = tuple(float(rate) for rate in at.split(",")) if at else ()
        factor = float(found[4])
    except ValueError as error:
        raise ConfigError(f"--want {text!r}: {error}") from error
    return Want(found[1].strip(), found[2], found[3] == "<=", factor, found[5].strip(), rates)


def rows(wants: Sequence[Want], found: Sequence[Standing]) -> list[Row]:
    """One for each criterion and rate. What was not measured does not hold."""
    made = []
    for want in wants:
        for rate in want.rates or sorted({each.rate for each in found}):
            here = [each for each in found if abs(each.rate - rate) < 1e-9]
            made.append(_row(want, rate, here))
    return made


def _row(want: Want, rate: float, here: Sequence[Standing]) -> Row:
    ours, theirs = _named(want.ours, here), _named(want.theirs, here)
    sign = "<=" if want.most else ">="
    what = f"{want.figure} of {want.ours} over {want.theirs}, {rate:g} requests/s"
    wanted = f"{sign} {want.factor:g}"
    mine = ours.values(want.figure) if ours else []
    other = theirs.values(want.figure) if theirs else []
    if not mine or len(mine) != len(other):
        return Row(what, wanted, "not measured", False)
    ratio = ratio_of(mine, other)
    holds = ratio.mid <= want.factor if want.most else ratio.mid >= want.factor
    return Row(what, wanted, _said(ratio), holds)


def _named(name: str, here: Sequence[Standing]) -> Standing | None:
    exact = next((each for each in here if each.layout == name), None)
    if exact is not None:
        return exact
    return best_of(DISAGGREGATED if name == DISAGGREGATION else (name,), here)


def _said(ratio: Interval) -> str:
    return f"{ratio.mid:.3f}" + (f" ({ratio.low:.3f} to {ratio.high:.3f})" if ratio.known else "")
