"""A running cluster beside its plan, and recorded traffic against what could have been."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from paced import write_profile
from planned import choice, kind, plan
from simulated import arrivals, poisson

from baton.bench.planning import simulate, what_if
from baton.bench.planning.fair import FEWEST, Sample
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.journals import layout_of, read_journal, seen_of, targets_of
from baton.bench.planning.layout import Layout, parse_layout
from baton.bench.planning.live import compare, look_of, prediction_errors
from baton.bench.planning.run import workers_of
from baton.bench.planning.simulate import main
from baton.bench.planning.simulated import row_of
from baton.bench.planning.what_if import Case, case_of, replayed
from baton.bench.planning.wishes import Wishes
from baton.bench.simulator.cluster import Cluster
from baton.bench.workloads.traces import read_trace
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.router.account import Account, Attempt
from baton.router.dispatcher import Dispatcher
from baton.router.lanes import Lanes, configure
from baton.router.observer import Observer

KINDS: tuple[WorkerKind, ...] = (kind(),)
WISHES = Wishes(ttft=0.4, itl=0.03)
BEGAN = 1.7e9
"""Unix time of a journal's beginning."""


def record(path: Path, layout: Layout, rate: float = 15.0, seconds: float = 15.0) -> None:
    """The journal of a router in simulated time."""
    accounts: list[Account] = []

    def dispatcher(observer: Observer) -> Dispatcher:
        return Dispatcher(None, observer, lanes=Lanes(configure(WISHES.ttft, WISHES.itl)),
                          journal=note)

    def note(account: Account) -> None:
        ended = cluster.loop.time()
        assert account.e2e is not None
        accounts.append(msgspec.structs.replace(account, arrived=BEGAN + ended - account.e2e))

    cluster = Cluster(workers_of(layout, KINDS), seed=1, dispatcher=dispatcher, fast_forward=True)
    cluster.run(arrivals(poisson(rate, seconds, 2), prompt=600, length=21, limit=21,
                         targets=Targets(ttft=WISHES.ttft, itl=WISHES.itl)))
    path.write_bytes(b"".join(msgspec.json.encode(account) + b"\n" for account in accounts))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    record(path, parse_layout("1p+1d", KINDS))
    return path


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", KINDS[0].machine.curve)


# -- journals --------------------------------------------------------------------------------


def test_a_journal_tells_its_targets_and_its_workers(journal: Path) -> None:
    accounts = read_journal(journal)
    assert targets_of(accounts, Wishes(ttft=9.0, itl=9.0)).ttft == WISHES.ttft
    layout = layout_of(accounts)
    assert layout is not None
    assert (layout.count("prefill"), layout.count("decode"), layout.count("mixed")) == (1, 1, 0)
    seen = seen_of(accounts, WISHES)
    assert seen.requests == len(accounts) == pytest.approx(225, abs=45)
    assert seen.attainment == pytest.approx(sum(a.attained is True for a in accounts) / len(
        accounts))


def test_a_torn_line_is_left_out_and_other_files_are_no_journal(
    journal: Path, tmp_path: Path
) -> None:
    whole = len(read_journal(journal))
    with journal.open("ab") as file:
        file.write(b'{"v":1,"id":"cm')
    assert len(read_journal(journal)) == whole
    other = tmp_path / "other.txt"
    other.write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match="is no journal"):
        read_journal(other)


def test_refused_requests_count_as_misses_and_cancelled_ones_do_not() -> None:
    def account(number: int, outcome: str, ttft: float | None) -> Account:
        return Account(id=f"r{number}", arrived=float(number), lane="interactive",
                       prompt_tokens=10, max_tokens=5, outcome=outcome, ttft=ttft)

    seen = seen_of([account(0, "completed", 0.1), account(1, "refused", None),
                    account(2, "cancelled", None), account(3, "completed", 5.0)], WISHES)
    assert seen.requests == 3
    assert seen.attainment == pytest.approx(1 / 3)
    assert seen.served == pytest.approx(2 / 3)


# -- what if ---------------------------------------------------------------------------------


def test_what_was_is_simulated_as_it_was_seen(journal: Path) -> None:
    """The journal comes from a simulation, so replaying it with the same workers must show the
    same, though lengths and prefixes are all that it kept of the requests."""
    accounts, trace = read_journal(journal), read_trace(journal)
    layout = layout_of(accounts)
    assert layout is not None
    seen = row_of("seen", [seen_of(accounts, WISHES)])
    same = row_of("same", [replayed(
        Case(name="same", layout=layout, kinds=KINDS), trace, WISHES, seed=1)])
    assert same.requests == seen.requests
    assert same.attainment.value == pytest.approx(seen.attainment.value, abs=0.05)
    for what in ("ttft_ms", "itl_ms"):
        mine, theirs = getattr(same, what).p50, getattr(seen, what).p50
        assert mine.value == pytest.approx(theirs.value, rel=0.15), what


def test_one_thing_is_otherwise(journal: Path, hardware: Path) -> None:
    base = Case(name="base", layout=parse_layout("1p+1d", KINDS), kinds=KINDS)
    split = case_of("3p+2d", base)
    assert (split.layout.workers, split.policy, split.kinds) == (5, None, KINDS)
    policy = case_of("local", base)
    assert (policy.layout, policy.policy) == (base.layout, "local")
    machine = case_of(str(hardware), base)
    assert machine.layout == base.layout
    assert machine.kinds[0].machine.name == "paced-cuda"
    for text, said in (("fast", "neither a policy"), ("2p", "leaves nobody to decode")):
        with pytest.raises(ConfigError, match=said):
            case_of(text, base)
    assert set(what_if.POLICIES) == {"strict", "cost", "local", "auto"}


def test_workers_for_both_are_colocated_until_they_hand_over() -> None:
    def account(route: str) -> Account:
        attempts = tuple(
            Attempt(at=0.0, route=route, reason="", decode=f"mixed-{n}",
                    prefill="mixed-0" if route == "remote" and n else None)
            for n in range(2)
        )
        return Account(id="r", arrived=0.0, lane="interactive", prompt_tokens=9, max_tokens=5,
                       outcome="completed", attempts=attempts)

    alone, handed = layout_of([account("local")]), layout_of([account("remote")])
    assert alone is not None
    assert handed is not None
    assert (alone.shape, alone.workers) == ("colocated", 2)
    assert (handed.shape, handed.by_cost, handed.workers) == ("hybrid", True, 2)


def test_more_and_faster_workers_would_have_done_better(journal: Path) -> None:
    trace = read_trace(journal)
    base = Case(name="base", layout=parse_layout("1p+1d", KINDS), kinds=KINDS)

    def attained(case: Case) -> float:
        return replayed(case, trace, WISHES, seed=1).attainment

    few = attained(base)
    assert few < 0.9, "or nothing could be better"
    assert attained(case_of("3p+1d", base)) > few + 0.05
    assert attained(replace(base, kinds=(kind(speed=3.0),))) > few + 0.05


def test_the_command_shows_what_was_beside_what_could_have_been(
    journal: Path, hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--hardware", str(hardware), "--trace", str(journal), "--what-if", "2p+1d",
                 "--what-if", "strict", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]] == [
        "really seen", "the same, simulated: 1 prefill + 1 decode, by cost",
        "2 prefill + 1 decode", "strict",
    ]
    assert report["ttft_ms"] == pytest.approx(400.0)
    seen, same, more, _ = report["rows"]
    assert seen["requests"] == same["requests"] == more["requests"]
    assert more["attainment"]["value"] > same["attainment"]["value"]
    assert set(more["busy"]) == {"prefill", "decode"}


def test_a_death_happens_to_what_was_and_to_what_could_have_been(
    journal: Path, hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More workers bear it better; each beside itself undisturbed, over the same requests."""
    usual = ["--hardware", str(hardware), "--trace", str(journal), "--what-if", "3p+2d"]
    death = ["--fail", "decode-0@5s+8s"]
    assert main([*usual, *death, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    was, could = "the same, simulated: 1 prefill + 1 decode, by cost", "3 prefill + 2 decode"
    assert [row["name"] for row in report["rows"]] == [
        "really seen", was, f"{was}, disturbed", could, f"{could}, disturbed",
    ]
    assert len({row["requests"] for row in report["rows"]}) == 1
    few, more = report["costs"]
    assert [few["of"], more["of"]] == [f"{was}, disturbed", f"{could}, disturbed"]
    lost = []
    for costs in (few, more):
        fails, back, _ = costs["moments"]
        assert [fails["at_s"], back["at_s"]] == [5.0, 13.0]
        assert costs["retried"]["value"] >= 1
        lost.append(fails["undisturbed"]["value"] - fails["attained"]["value"])
    assert lost[0] > lost[1] >= 0
    assert main([*usual, *death]) == 0
    assert f"{could}, disturbed: those that arrived" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("happens", "said"), [
    (["--fail", "decode-1@5s"], r"1 prefill \+ 1 decode, by cost: --fail decode-1: no such worker"),
    (["--fail", "decode-0@5s", "--what-if", "2m"],
     r"2 mixed: --fail decode-0: no such worker; there are: mixed-0, mixed-1.* leave out the"),
    (["--join", "decode@10h"], r"second 36000 is behind the end of the trace, which lasts \d+"),
])
def test_what_cannot_happen_to_each_is_said_before_any_runs(
    journal: Path, hardware: Path, monkeypatch: pytest.MonkeyPatch, happens: list[str], said: str
) -> None:
    monkeypatch.setattr(simulate, "replayed", lambda *args, **named: pytest.fail("it ran"))
    with pytest.raises(ConfigError, match=said):
        main(["--hardware", str(hardware), "--trace", str(journal), "--what-if", "2p+2d", *happens])


# -- live ------------------------------------------------------------------------------------


def view(name: str, role: str) -> dict[str, object]:
    curve = KINDS[0].machine.curve
    step = {field: getattr(curve, field) for field in (
        "base", "chunk", "token", "pair", "decode", "context", "spread", "steps")}
    return {"id": name, "role": role, "num_blocks": 4000, "max_running": 64, "load": None,
            "curves": {"step": step, "links": {"x": {"latency": 1e-3, "bandwidth": 1e9}}}}


def overview(*roles: str) -> dict[str, object]:
    return {"workers": [view(f"{role}-{n}", role) for n, role in enumerate(roles)]}


def accounts_of(journal: Path, first: int | None = None) -> Sample:
    return Sample(tuple(read_journal(journal)[:first]), ())


def test_prompts_that_press_ask_for_workers_that_read_them(journal: Path) -> None:
    look = look_of(overview("prefill", "decode", "decode", "decode"), {"workers": []},
                   accounts_of(journal))
    findings = compare(look, None, WISHES)
    assert findings.requests > FEWEST
    assert findings.moves
    assert all(move.before == "decode" for move in findings.moves)
    assert findings.best is not None
    assert findings.here is not None
    assert findings.best.goodput > findings.here.goodput + 0.02


def test_what_does_well_is_left_alone(journal: Path) -> None:
    look = look_of(overview("prefill", "prefill", "prefill", "decode"), {}, accounts_of(journal))
    assert compare(look, None, WISHES).moves == []


def test_pinned_workers_stay(journal: Path) -> None:
    roles = ("prefill", "decode", "decode", "decode")
    pinned = {"workers": [{"id": f"{role}-{n}", "pinned": True} for n, role in enumerate(roles)]}
    look = look_of(overview(*roles), pinned, accounts_of(journal))
    assert compare(look, None, WISHES).moves == []


def test_the_plan_stands_beside_what_is_seen(journal: Path) -> None:
    look = look_of(overview("prefill", "decode"), {}, accounts_of(journal))
    findings = compare(look, plan(choice(capacity=10.0)), WISHES)
    by_name = {entry.what: entry for entry in findings.compared}
    assert by_name["prompt tokens"].planned == 400
    assert by_name["prompt tokens"].seen == 600
    assert by_name["prompt tokens"].off == pytest.approx(0.5)
    assert by_name["TTFT of 95%"].planned == pytest.approx(0.2)
    assert any("planned were 2 prefill + 1 decode" in remark for remark in findings.remarks)
    assert any("plan again" in remark for remark in findings.remarks)


def test_nothing_is_said_of_few_requests_or_unknown_workers(journal: Path) -> None:
    few = look_of(overview("mixed"), {}, accounts_of(journal, 5))
    findings = compare(few, None, WISHES)
    assert findings.moves == []
    assert "5 requests have ended" in findings.remarks[-1]
    unknown = {"workers": [{**view("mixed-0", "mixed"), "curves": None}]}
    findings = compare(look_of(unknown, {}, accounts_of(journal)), None, WISHES)
    assert findings.remarks[0] == "mixed-0: its speed is not known yet"


def test_errors_of_predictions_are_of_the_last_decision() -> None:
    def account(number: int, predicted: float, seen: float) -> Account:
        attempts = (
            Attempt(at=0.0, route="remote", reason="split", decode="d",
                    predicted={"ttft": 9.0, "itl": 9.0}),
            Attempt(at=0.1, route="remote", reason="split", decode="d",
                    predicted={"ttft": predicted, "itl": 0.02}),
        )
        return Account(id=f"r{number}", arrived=float(number), lane="interactive",
                       prompt_tokens=10, max_tokens=5, outcome="completed", attempts=attempts,
                       ttft=seen, itl=0.03)

    ttft, itl = prediction_errors([account(n, 0.1, 0.24) for n in range(10)])
    assert (ttft.what, ttft.requests) == ("TTFT", 10)
    assert ttft.median == ttft.bias == pytest.approx(0.2)
    assert itl.bias == pytest.approx(0.5)
