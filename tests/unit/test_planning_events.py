"""Workers that die and join in `baton simulate`: what is said is what happens, with the names that
people know, and what it costs is told beside the same run without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paced import write_profile
from planned import kind

from baton.bench.planning import simulate
from baton.bench.planning.event_costs import Both, costs_of
from baton.bench.planning.events import AROUND, Happening, read_events
from baton.bench.planning.layout import parse_layout
from baton.bench.planning.loads import Stated
from baton.bench.planning.run import Span, run_load
from baton.bench.planning.wishes import Wishes
from baton.bench.simulator.cluster import Run
from baton.bench.simulator.events import Event, Fails, Joins
from baton.bench.simulator.outcome import Gaps, Outcome
from baton.bench.workloads.lengths import Lengths
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

ROLES = ["prefill", "prefill", "decode", "decode"]
WISHES = Wishes(ttft=0.3, itl=0.05)


# -- what is said ----------------------------------------------------------------------------


def test_workers_are_those_of_baton_up_and_the_simulator_counts_through_all() -> None:
    made = read_events(["decode-1@90s", "decode-0@60s+20s", "prefill-2@3m"], ["prefill@2m+1500ms"],
                       ROLES)
    assert made.events == (
        Fails(at=60.0, worker="decode-2", back_after=20.0), Fails(at=90.0, worker="decode-3"),
        Joins(at=120.0, role="prefill", start_seconds=1.5), Fails(at=180.0, worker="prefill-4"),
    )
    assert made.names["decode-3"] == "decode-1"
    assert made.names["prefill-4"] == "prefill-2"
    assert made.seconds == 180.0 + AROUND[1]
    assert [event.at for event in made.after(5.0)] == [65.0, 95.0, 125.0, 185.0]


def test_what_follows_from_the_last_event_counts() -> None:
    assert read_events(["decode-0@60s+90s"], [], ROLES).seconds == 150.0 + AROUND[1]
    assert read_events([], ["decode@60s+30s"], ROLES).seconds == 90.0 + AROUND[1]


@pytest.mark.parametrize(("fail", "join", "said"), [
    ("decode-2@1s", "", r"--fail decode-2: no such worker; there are: decode-0, decode-1, prefill"),
    ("mixed-0@1s", "", "no such worker"),
    ("decode@1s", "", r"--fail 'decode@1s': must be WORKER@TIME\[\+BACK\], such as decode-0@60s"),
    ("decode-0", "", "must be WORKER@TIME"),
    ("decode-0@1s+2s+3s", "", "must be WORKER@TIME"),
    ("decode-0@60", "", r"--fail decode-0@60: '60' needs a unit"),
    ("decode-0@-5s", "", r"is not a duration"),
    ("decode-0@1s+soon", "", r"'soon' is not a duration"),
    ("decode-0@1s+10ms", "", r"decode-0 is back after 0.01 s, before anybody has noticed"),
    ("", "decode-0@1s", r"--join 'decode-0@1s': must be ROLE@TIME\[\+START\]"),
    ("", "cook@1s", "roles are prefill, mixed, decode"),
    ("decode-2@20s", "decode@19s+5s", r"decode-2 at 20 s, when it is not running"),
])
def test_what_cannot_be_is_said_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, fail: str, join: str, said: str
) -> None:
    monkeypatch.setattr(simulate, "run_steady", lambda *args, **named: pytest.fail("it ran"))
    options = [word for option, text in (("--fail", fail), ("--join", join)) if text
               for word in (f"{option}={text}",)]
    with pytest.raises(ConfigError, match=said):
        simulate.main(["2p+2d", "--hardware", "made", "--prompt", "400", "--output", "16",
                       "--rate", "5/s", *options])


def test_one_that_is_dead_cannot_die() -> None:
    with pytest.raises(ConfigError, match="decode-1 at 70 s, when it is not running"):
        read_events(["decode-1@60s+20s", "decode-1@70s"], [], ROLES)


# -- what it costs ---------------------------------------------------------------------------


def outcome(at: float, *, good: bool = True, gap: float = 0.01) -> Outcome:
    return Outcome(kind="", lane="", at=at, prompt=1, end="length" if good else "worker_lost",
                   tokens=2, ttft=0.1, last=0.12, longest_gap=gap, targets=Targets(ttft=1, itl=1))


def made_up(outcomes: list[Outcome], happened: list[tuple[float, str, str]], retries: int) -> Run:
    return Run(outcomes=outcomes, gaps=Gaps(), work={}, role_changes=[], decisions={},
               retries={"worker_lost": retries} if retries else {}, circuits=[], seconds=200.0,
               events=1, happened=happened)


def test_requests_around_an_event_are_set_beside_the_same_and_beside_the_rest() -> None:
    """One comes each second; after 10 s of warm-up, a worker dies at 60 and is back at 100."""
    happened = [(60.0, "decode-1", "fails"), (100.0, "decode-1", "back")]
    disturbed = [outcome(at, good=not 60 <= at < 75, gap=2.0 if at == 59 else 0.01)
                 for at in range(160)]
    both = Both(Span(10.0, 140.0, 5.0), made_up(disturbed, happened, 3),
                made_up([outcome(at) for at in range(160)], [], 0))
    found = costs_of([both, both], WISHES, Happening(names={"decode-1": "decode-0"}))
    fails, back, rest = found.moments
    assert (fails.what, fails.at_s) == ("decode-0 fails", 50.0)
    assert (back.what, back.at_s) == ("decode-0 is back", 90.0)
    assert (fails.requests, back.requests) == (60, 60), "30 s of each seed"
    assert fails.attained is not None
    assert fails.undisturbed is not None
    assert (fails.attained.value, fails.undisturbed.value) == (0.5, 1.0)
    assert (fails.longest_gap_ms, fails.undisturbed_gap_ms) == (2000.0, 10.0)
    # From 10 s, when it begins to count, to 50, and from 120 to 150.
    assert (rest.what, rest.requests) == ("the rest", 2 * (40 + 30))
    assert rest.attained is not None
    assert rest.attained.value == 1.0
    assert (found.retried.value, found.retries) == (3.0, {"worker_lost": 6})


def test_who_does_not_come_back_leaves_no_rest_behind_it() -> None:
    both = Both(Span(0.0, 100.0, 0.0),
                made_up([outcome(at) for at in range(100)], [(0.5, "d", "fails")], 0),
                made_up([outcome(at) for at in range(100)], [], 0))
    rest = costs_of([both], WISHES, Happening()).moments[-1]
    assert (rest.requests, rest.attained, rest.longest_gap_ms) == (0, None, None)


# -- as a whole ------------------------------------------------------------------------------


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", kind().machine.curve)


def command(hardware: Path, *more: str) -> list[str]:
    return ["1p+1d", "--hardware", str(hardware), "--prompt", "400", "--output", "40", "--rate",
            "8/s", "--ttft", "400ms", "--itl", "20ms", "--requests", "50", "--json", *more]


def test_a_death_costs_those_around_it_and_a_join_helps(
    hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate.main(command(hardware, "--fail", "decode-0@15s+8s")) == 0
    report = json.loads(capsys.readouterr().out)
    calm, disturbed = report["rows"]
    assert calm["name"] == "1 prefill + 1 decode, undisturbed"
    assert calm["requests"] == disturbed["requests"], "the same ones"
    assert disturbed["goodput_per_s"]["value"] < calm["goodput_per_s"]["value"]
    (costs,) = report["costs"]
    assert costs["of"] == disturbed["name"] == "1 prefill + 1 decode"
    fails, back, _ = costs["moments"]
    assert [fails["at_s"], back["at_s"]] == [15.0, 23.0]
    assert fails["attained"]["value"] < fails["undisturbed"]["value"]
    assert costs["retried"]["value"] >= 1
    helped = ["--fail", "decode-0@15s+8s", "--join", "decode@10s+3s"]
    assert simulate.main(command(hardware, *helped)) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"][1]["goodput_per_s"]["value"] > disturbed["goodput_per_s"]["value"]
    assert [each["what"] for each in again["costs"][0]["moments"]] == [
        "decode-1 is asked for", "decode-1 joined", "decode-0 fails", "decode-0 is back",
        "the rest",
    ]


def test_the_table_shows_what_happened(hardware: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = command(hardware, "--fail", "decode-0@15s+2s")
    options.remove("--json")
    assert simulate.main(options) == 0
    shown = capsys.readouterr().out
    assert "decode-0 is back" in shown
    assert "sent to another worker, per run:" in shown


def test_without_events_nothing_is_told_of_them(
    hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate.main(command(hardware)) == 0
    report = json.loads(capsys.readouterr().out)
    assert (len(report["rows"]), report["costs"]) == (1, [])


def test_the_work_of_the_dead_and_of_those_who_joined_counts() -> None:
    kinds = (kind(),)
    load = Stated(Lengths(prompt=400, output=40, spread=0.0, output_spread=0.0))
    span = Span(5.0, 20.0, 2.0)

    def busy(*events: Event) -> dict[str, float]:
        return run_load(parse_layout("2p+1d", kinds), kinds, load, WISHES, rate=12.0, span=span,
                        seed=1, events=events).busy

    calm = busy()["prefill"]
    assert 0.1 < calm < 0.6
    # The same prompts, a moment of which is lost; there are always two workers.
    died = busy(Fails(at=20.0, worker="prefill-0", back_after=0.5))["prefill"]
    assert died == pytest.approx(calm, rel=0.15)
    # Two and a half workers' time, on average over the stretch.
    joined = busy(Joins(at=15.0, role="prefill"))["prefill"]
    assert joined == pytest.approx(calm * 2 / 2.5, rel=0.1)
