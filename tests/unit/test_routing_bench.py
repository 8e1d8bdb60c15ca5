"""The parts of `baton bench routing` that decide what a run was worth, and what it is made of."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise
from statistics import mean, stdev

import pytest
from simulated import machine

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.planning.hardware.made import made
from baton.bench.routing.prefix import infinite_hit_rate
from baton.bench.routing.shift import judge
from baton.bench.routing.systems import colocated, split, static_systems
from baton.bench.routing.trial import Trial, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.outcome import Gaps, Outcome, attainment, summary
from baton.bench.workloads.arrival import output_tokens
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.processes import times
from baton.bench.workloads.workload import Part
from baton.engine.scripted import script_seed
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import unpack_tokens

TARGETS = Targets(ttft=1.0, itl=0.1)


def outcome(**changes: object) -> Outcome:
    plain = Outcome("chat", "interactive", 1.0, 100, "stop", 11, 0.5, 1.5, targets=TARGETS)
    return replace(plain, **changes)  # type: ignore[arg-type]


# -- outcomes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "attained"), [
    ({}, True),
    ({"ttft": 1.1, "last": 2.1}, False),
    ({"last": 1.6}, False),  # 110 ms between tokens
    ({"tokens": 1, "last": 0.5}, True),
    ({"end": "overloaded", "tokens": 0, "ttft": None, "last": None}, False),
    ({"end": "deadline_exceeded"}, False),
    ({"ttft": 9.0, "last": 99.0, "targets": Targets()}, True),
])
def test_a_request_attains_both_of_its_targets_or_misses(
    changes: dict[str, object], attained: bool
) -> None:
    assert outcome(**changes).attained is attained


def test_refusals_count_in_attainment_and_not_in_times() -> None:
    refused = outcome(end="overloaded", tokens=0, ttft=None, last=None)
    outcomes = [outcome(), outcome(cached=50), refused, refused]
    assert attainment(outcomes) == 0.5
    figures = summary(outcomes, 4.0)
    assert figures["goodput_per_s"] == 0.5
    assert figures["ttft_ms"]["p99"] == 500.0
    assert figures["hit_rate"] == 0.25
    assert figures["ends"] == {"overloaded": 2, "stop": 2}


def test_gaps_between_tokens_keep_their_quantiles() -> None:
    gaps = Gaps()
    for number in range(1, 1001):
        gaps.add(number * 1e-3)
    assert gaps.quantile(0.5) == pytest.approx(0.5, rel=0.03)
    assert gaps.quantile(0.99) == pytest.approx(0.99, rel=0.03)
    assert Gaps().quantile(0.5) is None


@pytest.mark.parametrize("seconds", [2e-6, 0.04, 1.0, 1.02, 3.0, 50.0])
def test_a_gap_is_known_within_a_fortieth_whether_short_or_long(seconds: float) -> None:
    gaps = Gaps()
    gaps.add(seconds, 2)
    assert gaps.quantile(0.5) == pytest.approx(seconds, rel=0.013)


# -- workloads -------------------------------------------------------------------------------


def test_arrivals_are_the_same_for_a_seed_and_come_at_the_rate_asked_for() -> None:
    def some(seed: int) -> list[tuple[float, bytes, int]]:
        stream = arrivals([Part("conversation", 3.0, 0.0, 200.0)], made(), seed)
        return [(a.at, a.prompt(), a.length) for a in stream]

    first, again, other = some(1), some(1), some(2)
    assert first == again != other
    assert [at for at, _, _ in first] == sorted(at for at, _, _ in first)
    assert len(first) / 200 == pytest.approx(3.0, rel=0.25)


def test_intervals_vary_as_asked() -> None:
    from random import Random

    for variation in (1.0, 4.0):
        at = list(islice(times(Random(3), 10.0, 0.0, 1e9, variation), 20_000))
        gaps = [b - a for a, b in pairwise(at)]
        assert mean(gaps) == pytest.approx(0.1, rel=0.1)
        assert stdev(gaps) / mean(gaps) == pytest.approx(variation, rel=0.1)


def test_a_turn_begins_with_all_that_was_said_before() -> None:
    turns = list(arrivals([Part("agent", 2.0, 0.0, 60.0)], made(), 1))
    name = next(t.session for t in turns if sum(u.session == t.session for u in turns) > 2)
    mine = [t for t in turns if t.session == name]
    for before, after in pairwise(mine):
        said = before.prompt() + output_tokens(before)
        assert after.prompt().startswith(said)
    assert len(unpack_tokens(output_tokens(mine[0]))) == mine[0].length - 1
    assert script_seed(mine[0].length, mine[0].noise) >> 32 == mine[0].length


def test_one_infinite_cache_finds_exactly_what_was_there_before() -> None:
    turns = list(arrivals([Part("agent", 2.0, 0.0, 60.0)], made(), 1))
    rate = infinite_hit_rate(turns, 32, 0.0)
    assert 0.5 < rate < 0.95
    assert infinite_hit_rate([turns[0]], 32, 0.0) == 0.0
    same = [turns[0], replace(turns[0], at=turns[0].at + 1)]
    whole = (len(turns[0].prompt()) // 4 - 1) // 32 * 32
    expected = whole / (2 * len(turns[0].prompt()) / 4)
    assert infinite_hit_rate(same, 32, 0.0) == pytest.approx(expected)
    chats = arrivals([Part("chat", 5.0, 0.0, 20.0)], made(), 1)
    assert infinite_hit_rate(chats, 32, 0.0) == 0.0


def test_every_kind_has_targets_that_a_worker_alone_meets() -> None:
    for kind in KINDS.values():
        targets = targets_for(made(), kind.prompt)
        stream = arrivals([Part(kind.name, 0.02, 0.0, 2000.0)], made(), 1, targets=targets)
        run = Cluster([("mixed", made())], seed=1).run(islice(stream, 12))
        assert attainment(run.outcomes) > 0.7, kind.name


# -- systems ---------------------------------------------------------------------------------


def test_static_systems_do_what_they_are_named_for() -> None:
    small = machine(base=5e-3, token=1e-4, decode=1e-4)
    parts = [Part("chat", 4.0, 0.0, 8.0)]

    def routes(system) -> set[str]:  # type: ignore[no-untyped-def]
        trial = run_trial(system, small, arrivals(parts, small, 1), lanes=lanes_for(TARGETS),
                          count=(0.0, 8.0), seed=1)
        assert attainment(trial.outcomes) > 0.9
        return {decision.split()[0] for decision in trial.run.decisions}

    assert routes(split(1, 2)) == {"remote"}
    assert routes(colocated(3, 128)) == {"local"}
    assert len(list(static_systems(8))) == 7 + 4


def test_a_chunk_of_fixed_size_is_kept_beside_decodes() -> None:
    [(_, fixed)] = colocated(1, 64).workers(made())
    assert fixed.limits.prefill_budget("mixed", 10) == 64
    assert not fixed.adapts


# -- judging a shifting load -----------------------------------------------------------------


def trial(name: str, good: list[bool], changes: list[tuple[float, str, str]]) -> Trial:
    """One request a second, over two phases of 100 s."""
    outcomes = [
        outcome(at=float(at), ttft=0.5 if fine else 5.0, last=1.5 if fine else 6.0)
        for at, fine in enumerate(good)
    ]
    nothing = Cluster([], seed=1).run([])
    run = Run(**{**{f: getattr(nothing, f) for f in nothing.__dataclass_fields__},
                 "role_changes": changes})
    return Trial(name, run, outcomes, 200.0)


def test_a_shift_is_judged_by_what_follows_it() -> None:
    slow = [not 100 <= at < 110 for at in range(200)]  # ten bad seconds after the shift
    one = [at < 100 for at in range(200)]
    other = [at >= 100 for at in range(200)]
    static = [trial("a", one, []), trial("b", other, [])]
    rows = judge(trial("auto", slow, [(104.0, "w", "decode")]), static, ("x", "y"), 100.0)
    assert [row.holds for row in rows] == [False, True, True, True, False]
    moves = [(101.0 + n, "w", "decode") for n in range(4)] + [(180.0, "w", "prefill")]
    rows = judge(trial("auto", [True] * 200, moves), static, ("x", "y"), 100.0)
    assert [row.holds for row in rows] == [True, True, False, False, True]


# -- machines --------------------------------------------------------------------------------


def test_machines_come_from_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    fits = tmp_path / "fits.json"
    fits.write_text(
        '{"facebook/opt-13b": {"1": {"decoding_large_small_bs_threshold": 95, "prefill": '
        '[18.0, 0.1, 7e-6], "decoding_smallbs": [20.0, 6e-4, 0.04], "decoding_largebs": '
        '[7.0, 6e-4, 0.16]}}}'
    )
    found = load_machine(f"{fits}:facebook/opt-13b:1")
    assert found.curve.prefill_seconds(512, 0, 512) == pytest.approx(
        0.018 + 0.0512 + 7e-9 * 512**2, rel=1e-3
    )
    assert found.limits.max_running == 95
    with pytest.raises(ConfigError, match="no profile"):
        load_machine(str(fits))
    with pytest.raises(ConfigError, match="cannot read"):
        load_machine(str(tmp_path / "none.json"))
