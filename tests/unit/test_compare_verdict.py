"""Phases, verdicts, criteria and agreement of runs that are made up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from baton.bench.compare.agreement import Parting, compare, judge
from baton.bench.compare.capacities import ratios
from baton.bench.compare.measure import Point, Run, figures_of
from baton.bench.compare.phases import Phases, mean, phases_of, why_between, why_first_token
from baton.bench.compare.search import Capacity
from baton.bench.compare.verdict import (
    LOSES,
    TIED,
    WINS,
    Standing,
    best_of,
    outcome,
    paired,
    sentences,
    standings,
)
from baton.bench.compare.wants import parse, rows
from baton.bench.serve.seen import Seen
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.router.account import Account, Attempt

PLAIN = Phases(ttft={"router": 5, "queue": 100, "prefill": 300, "rest": 5}, gap=20, plain=18,
               stretched=0.05)
CROWDED = Phases(ttft={"router": 5, "queue": 20, "prefill": 500, "rest": 6}, gap=40, plain=20,
                 stretched=0.4)


def run(
    layout: str, goodput: float, *, rate: float = 2.0, repetition: int = 0, family: str = "",
    phases: Phases = PLAIN, ci: list[float] | None = None, **figures: float,
) -> Run:
    told = {"requests": 100.0, "goodput_per_s": goodput, "attainment": goodput / rate,
            "itl_p99_ms": 30.0, "ttft_p50_ms": 400.0, "ttft_p99_ms": 900.0}
    point = Point(
        layout=layout, family=family or layout.split()[0], rate=rate, repetition=repetition,
        seed=1 + 1000 * repetition, figures={**told, **figures}, attainment_ci=ci, ends={},
        phases={},
    )
    return Run(point=point, phases=phases, seen=[])


def several(layout: str, goodputs: Sequence[float], **rest: object) -> list[Run]:
    return [run(layout, g, repetition=n, **rest) for n, g in enumerate(goodputs)]  # type: ignore[arg-type]


def standing(runs: list[Run]) -> Standing:
    (only,) = standings(runs)
    return only


# -- who wins --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [
        ((1.8, 1.9, 1.85), (1.0, 1.1, 1.05), WINS),
        ((1.0, 1.1, 1.05), (1.8, 1.9, 1.85), LOSES),
        ((1.0, 1.9, 1.4), (1.4, 1.0, 1.9), TIED),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), TIED),
        ((1.8, 1.9, 1.7), (0.0, 0.0, 0.0), WINS),
        ((0.0, 0.1, 0.0), (1.0, 1.1, 1.0), LOSES),
    ],
)
def test_an_interval_decides(
    ours: tuple[float, ...], theirs: tuple[float, ...], result: str
) -> None:
    found = outcome(standing(several("split 1+1", ours)), standing(several("colocated", theirs)))
    assert found[0] == result


def test_where_one_attains_nothing_it_does_not_matter_how_many_came() -> None:
    """All of 52 and all of 33 requests, against none."""
    ours = [run("split 1+1", 0.52, attainment=1.0), run("split 1+1", 0.33, repetition=1,
                                                        attainment=1.0)]
    theirs = several("colocated", (0.0, 0.0))
    assert outcome(standing(ours), standing(theirs))[0] == WINS
    assert outcome(standing(theirs), standing(ours))[0] == LOSES


def test_one_repetition_is_decided_by_its_requests() -> None:
    theirs = standing([run("colocated", 1.0, ci=[0.4, 0.6])])
    assert outcome(standing([run("split 1+1", 1.6, ci=[0.7, 0.9])]), theirs)[0] == WINS
    assert outcome(standing([run("split 1+1", 1.2, ci=[0.5, 0.7])]), theirs)[0] == TIED
    assert outcome(standing([run("split 1+1", 0.6, ci=[0.2, 0.39])]), theirs)[0] == LOSES


def test_the_best_of_a_family_has_goodput_and_then_short_tails() -> None:
    runs = [run("colocated 128", 1.50, itl_p99_ms=20), run("colocated 512", 1.505, itl_p99_ms=80),
            run("colocated 64", 1.0, itl_p99_ms=10), run("split 1+1", 2.0)]
    best = best_of(("colocated",), standings(runs))
    assert best is not None
    assert best.layout == "colocated 128"
    assert best_of(("peer",), standings(runs)) is None


def test_the_verdict_says_where_by_how_much_and_why() -> None:
    runs = [
        *several("split 1+1", (1.9, 1.8, 1.85), phases=PLAIN, itl_p99_ms=24.0),
        *several("colocated 256", (1.2, 1.1, 1.15), phases=CROWDED, itl_p99_ms=96.0),
        *several("split 1+1", (0.9, 0.92, 0.91), rate=1.0),
        *several("colocated 256", (0.98, 1.0, 0.99), rate=1.0),
    ]
    said = sentences(runs, {}, 0.95)
    assert said[0] == "Disaggregation wins at 2 requests/s."
    assert said[1] == "Disaggregation loses at 1 requests/s."
    assert said[2].startswith("At 1 requests/s split 1+1 loses against colocated 256: 0.92 times (")
    assert "1.61 times (1.54 to 1.68)" in said[3]
    assert "between tokens P99 24.0 ms against 96.0" in said[3]
    assert "200 ms less computing the prompt, 80 ms more waiting at the worker" in said[3]
    assert "5% of the time between tokens, against 40%" in said[3]


def test_beside_a_peer_the_price_and_the_gain_are_told() -> None:
    runs = [
        *several("split 1+1", (1.9, 1.8), itl_p99_ms=20.0, ttft_mean_ms=600.0),
        *several("vllm", (1.9, 1.8), family="peer", itl_p99_ms=80.0, ttft_mean_ms=400.0),
    ]
    (said,) = sentences(runs, {}, 0.95)
    assert said == (
        "At 2 requests/s, split 1+1 beside vllm: first tokens take 1.50 times (1.50 to 1.50) as "
        "long; P99 between tokens is 0.25 times (0.25 to 0.25) as long."
    )


def test_without_one_of_both_there_is_no_verdict_but_of_capacities() -> None:
    found = [Capacity(holds, 2 * holds) for holds in (1.0, 1.1, 1.2)]
    said = sentences([run("split 1+1", 1.0)], {"split 1+1": found}, 0.9)
    assert said == ["Highest rate at which 90% of requests attain, requests/s: "
                    "split 1+1 1.10 (0.87 to 1.38)."]


# -- why -------------------------------------------------------------------------------------


def account(at: float, queue: float, phases: dict[str, float], ttft: float, helper: str | None
            ) -> Account:
    attempt = Attempt(at=0.0, route="remote", reason="x", prefill=helper, decode="d")
    return Account(id="a", arrived=at, lane="interactive", prompt_tokens=9, max_tokens=9,
                   attempts=(attempt,), queue=queue, ttft=ttft, phases=phases, outcome="completed")


def test_phases_are_means_and_what_is_left_is_the_way() -> None:
    accounts = [account(0, 0.1, {"queue": 0.2, "prefill": 0.3}, 0.62, "p"),
                account(1, 0.3, {"queue": 0.0, "prefill": 0.5}, 0.82, None)]
    found = phases_of(accounts, [0.01] * 8 + [0.06])
    assert found.ttft == pytest.approx({"router": 200, "queue": 100, "prefill": 400, "rest": 20})
    assert found.handed_over == 0.5
    assert found.plain == pytest.approx(10)
    assert found.stretched == pytest.approx(0.05 / 0.14)
    assert phases_of([], []).ttft == {}
    assert mean([found, found]) == found


def test_who_got_no_token_is_in_no_mean() -> None:
    refused = Account(id="a", arrived=0, lane="x", prompt_tokens=9, max_tokens=9,
                      outcome="refused")
    accounts = [account(0, 0.1, {"queue": 0.2, "prefill": 0.3}, 0.6, None), refused]
    assert phases_of(accounts, []).ttft["queue"] == pytest.approx(200)


def test_what_no_server_tells_is_not_explained() -> None:
    assert why_first_token({}, CROWDED.ttft) == ""
    assert why_first_token(PLAIN.ttft, PLAIN.ttft) == "no phase differs"
    assert why_between(CROWDED, PLAIN).startswith("gaps beyond the usual are 40%")


# -- criteria --------------------------------------------------------------------------------


def test_criteria_are_judged_at_each_rate() -> None:
    runs = [*several("split 1+1", (1.8, 1.7), itl_p99_ms=20.0),
            *several("colocated 128", (1.0, 1.0), itl_p99_ms=100.0),
            *several("colocated 256", (1.15, 1.09), itl_p99_ms=70.0),
            *several("split 1+1", (1.0, 1.0), rate=1.0),
            *several("colocated 256", (1.0, 1.0), rate=1.0)]
    wants = [parse("disaggregated: goodput_per_s >= 1.5 * colocated"),
             parse("split 1+1: itl_p99_ms <= 0.25 * colocated 128 @ 2")]
    found = rows(wants, standings(runs))
    assert [(row.holds, row.seen.split()[0]) for row in found] == [
        (False, "1.000"), (True, "1.562"), (True, "0.200")
    ]


def want(text: str, *runs: Run) -> bool:
    (row,) = rows([parse(text)], standings(list(runs)))
    return row.holds


def test_a_criterion_holds_with_all_of_its_interval() -> None:
    """Ratios of 1.5, 1.9 and 1.7 on average are 1.7, and may be 1.26; those of 1.68 to 1.72 not."""
    text = "split 1+1: goodput_per_s >= 1.5 * colocated"
    base = several("colocated", (1.0, 1.0, 1.0))
    assert not want(text, *several("split 1+1", (1.5, 1.9, 1.7)), *base)
    assert want(text, *several("split 1+1", (1.68, 1.72, 1.7)), *base)
    text = "split 1+1: goodput_per_s <= 1.8 * colocated"
    assert not want(text, *several("split 1+1", (1.5, 1.9, 1.7)), *base)
    assert want(text, *several("split 1+1", (1.68, 1.72, 1.7)), *base)
    assert not want(text, run("split 1+1", 1.0), run("colocated", 1.0)), "one has no interval"


def test_where_a_zero_leaves_no_ratio_the_difference_decides() -> None:
    text = "split 1+1: goodput_per_s >= 1.5 * colocated"
    nothing = several("colocated", (0.0, 0.0, 0.0))
    assert want(text, *several("split 1+1", (1.8, 1.9, 1.7)), *nothing)
    assert not want(text, *several("split 1+1", (0.0, 1.9, 0.0)), *nothing)


def test_a_repetition_that_is_missing_takes_its_pair_with_it() -> None:
    """Repetitions differ three times, layouts by a fifth: the first of one beside the second of the
    other would hide it."""
    ours, theirs = several("split 1+1", (1.2, 2.4, 3.6, 4.8)), several("colocated", (1, 2, 3, 4))
    one, other = standing(ours[1:]), standing(theirs[:-1])
    assert paired(one, other, "goodput_per_s") == ([2.4, 3.6], [2, 3])
    assert outcome(one, other)[1].mid == pytest.approx(1.2)
    assert outcome(one, other)[0] == WINS
    assert want("split 1+1: goodput_per_s >= 1.19 * colocated", *ours[1:], *theirs[:-1])
    none = standing([run("split 1+1", 1.0, ttft_mean_ms=None), *ours[1:]])  # type: ignore[arg-type]
    assert paired(none, standing(theirs), "ttft_mean_ms") == ([], [])


def test_without_a_pair_nobody_knows() -> None:
    ours, theirs = several("split 1+1", (1.0, 1.0)), several("colocated", (1.0, 1.0))
    result, ratio = outcome(standing(ours[:1]), standing(theirs[1:]))
    assert (result, ratio.known) == (TIED, False)
    said = sentences([*ours[:1], *theirs[1:]], {}, 0.9)
    assert any("nobody knows how many times as many requests" in sentence for sentence in said)


# -- capacities ------------------------------------------------------------------------------

FAMILIES = {"split 1+1": "split", "auto": "auto", "colocated 128": "colocated",
            "colocated": "colocated", "vllm": "peer"}


def found(*holds: float, fails: float = 9.0, first: int = 0) -> list[Capacity]:
    return [Capacity(each, fails, repetition=first + n) for n, each in enumerate(holds)]


def test_capacities_are_paired_and_the_best_of_both_are_compared() -> None:
    capacities = {"colocated": found(1.0, 2.0, 4.0), "colocated 128": found(0.5, 0.5, 0.5),
                  "split 1+1": found(1.5, 3.1, 5.9), "auto": found(1.0, 1.0, 1.0),
                  "vllm": found(2.0, 1.0, first=1)}
    beside, peer = ratios(capacities, FAMILIES)
    assert beside[:2] == ("split 1+1", "colocated")
    assert beside[2].mid == pytest.approx((1.5 * 1.55 * 1.475) ** (1 / 3))
    assert beside[2].low > 1.4
    assert peer[:2] == ("split 1+1", "vllm")
    assert (peer[2].count, peer[2].mid) == (2, pytest.approx((1.55 * 5.9) ** 0.5))
    said = sentences([], capacities, 0.9, FAMILIES)
    assert said[1] == "split 1+1 holds 1.51 times (1.42 to 1.61) the rate that colocated holds."


@pytest.mark.parametrize(("ours", "theirs", "how"), [
    (9.0, 9.0, ""), (math.inf, 9.0, "at least "), (9.0, math.inf, "at most "),
    (math.inf, math.inf, "about "),
])
def test_a_search_that_never_failed_bounds_the_ratio(ours: float, theirs: float, how: str) -> None:
    capacities = {"split 1+1": found(2.0, 2.0, fails=ours),
                  "colocated": found(1.0, 1.0, fails=theirs)}
    assert ratios(capacities, FAMILIES)[0][3] == how


def test_what_was_not_measured_does_not_hold() -> None:
    (row,) = rows([parse("split 1+1: ttft_p50_ms <= 1 * vllm")], standings([run("split 1+1", 1)]))
    assert (row.holds, row.seen) == (False, "not measured")


@pytest.mark.parametrize(
    "text", ["", "a <= 1 * b", "a: served <= b", "a: served < 1 * b", "a: served <= 1 * b @ x",
             "a: served <= 1.2.3 * b", "a: x <= 1 * b"]
)
def test_criteria_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--want"):
        parse(text)


# -- answers ---------------------------------------------------------------------------------


def seen(number: int, ids: list[int] | None, outcome: str = "length") -> Seen:
    return Seen(number, "", "", "", Targets(), 0.0, 4, 3, outcome=outcome, ids=ids)


OURS = [seen(0, [1, 2, 3]), seen(1, [1, 2, 3]), seen(2, [4, 5]), seen(3, None), seen(4, [7])]
THEIRS = [seen(0, [1, 2, 3]), seen(1, [1, 9, 8]), seen(2, [4, 5, 6]), seen(3, [1]),
          seen(4, [8], outcome="refused")]


def test_answers_part_at_the_first_token_that_differs() -> None:
    compared, parted = compare(OURS, THEIRS)
    assert compared == 3
    assert parted == [Parting(1, 1, (2, 9)), Parting(2, 2, (-1, -1))]


def test_a_near_tie_excuses_and_nothing_else() -> None:
    compared, parted = compare(OURS, THEIRS)

    def asked(best: tuple[int, int], gap: float) -> tuple[int, int]:
        found = judge(compared, parted, lambda parting: [0] * parting.position,
                      lambda ids: (best, gap), tie=1e-4)
        assert found.same == 1
        return found.ties, found.changed

    assert asked((9, 2), 1e-5) == (1, 1)
    assert asked((9, 2), 1e-2) == (0, 2)
    assert asked((9, 3), 1e-5) == (0, 2)
    nobody = judge(compared, parted[:1], lambda parting: [], None, tie=1.0)
    assert (nobody.unchecked, nobody.changed) == (1, 0)


def test_only_so_many_are_asked() -> None:
    parted = [Parting(n, 0, (1, 2)) for n in range(5)]
    found = judge(9, parted, lambda parting: [], lambda ids: ((1, 2), 0.0), tie=1e-4, most=2)
    assert (found.same, found.ties, found.unchecked) == (4, 2, 3)


def test_figures_are_flat() -> None:
    figures = figures_of({"requests": 3, "ttft_ms": {"mean": 2.0, "p50": 1.0}, "itl_ms": None})
    assert figures["ttft_p50_ms"] == 1.0
    assert figures["itl_p99_ms"] is None
    assert figures["requests"] == 3
