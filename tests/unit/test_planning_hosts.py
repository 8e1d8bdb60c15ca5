"""Workers that share hosts, in plans and simulations: who is whose neighbour, and what that is
worth over a slow link between hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from paced import write_profile
from planned import kind

from baton.bench.planning import command, simulate
from baton.bench.planning.candidates import Candidate, model_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.hardware.links import link_of
from baton.bench.planning.hosts import dealt, link_within, on_hosts, spans_hosts
from baton.bench.planning.layout import parse_layout
from baton.bench.planning.run import workers_of
from baton.bench.planning.slices import slice_of
from baton.bench.planning.steady import Length
from baton.bench.planning.what_if import Case, case_of
from baton.bench.planning.wishes import Wishes
from baton.protocol.errors import ConfigError
from baton.router.planner.workload import Item, Workload

FAR, NEAR = link_of(1e9, 1e-3), link_of(100e9, 1e-5)


def hosted(per_host: int, *, near: bool = True) -> WorkerKind:
    plain = kind()
    linked = replace(plain, machine=replace(plain.machine, link=FAR))
    return on_hosts(linked, per_host, NEAR if near else None)


# -- neighbours ------------------------------------------------------------------------------


@pytest.mark.parametrize(("pools", "order"), [
    (["pp", "dd"], "pdpd"), (["p", "ddd"], "dpdd"), (["pp", "dddddd"], "dpdddpdd"),
    (["mmm"], "mmm"),
])
def test_every_host_gets_its_part_of_each_role(pools: list[str], order: str) -> None:
    assert "".join(dealt(pools)) == order


def test_without_shared_hosts_workers_stay_in_the_order_of_the_layout() -> None:
    for per_host, order in ((1, "ppdd"), (2, "pdpd")):
        kinds = (hosted(per_host),)
        found = workers_of(parse_layout("2p+2d", kinds), kinds)
        assert "".join(role[0] for role, _ in found) == order
        assert {machine.local_link for _, machine in found} == {NEAR}


# -- links, as closed forms see them ---------------------------------------------------------


def test_of_one_host_only_the_local_link_counts_and_alone_only_the_other() -> None:
    layout = parse_layout("2p+2d", (hosted(4),))
    assert link_within(layout, hosted(4)) == NEAR
    assert link_within(layout, hosted(1)) == FAR
    assert link_within(layout, hosted(4, near=False)) == FAR


def test_neighbours_share_the_link_of_their_host_and_need_it_less() -> None:
    """Of eight workers on two hosts, three of seven others are near; two send from each host."""
    found = link_within(parse_layout("4p+4d", (hosted(4),)), hosted(4))
    assert found.byte == pytest.approx(3 / 7 * NEAR.byte + 4 / 7 * 2 * FAR.byte)
    assert found.latency == pytest.approx(3 / 7 * NEAR.latency + 4 / 7 * FAR.latency)


# -- what is simulated -----------------------------------------------------------------------


def test_a_part_has_other_neighbours_so_all_of_it_is_simulated() -> None:
    work = Workload(1.0, (Item(400, 0, 40, 0.5, 0.05),))
    for per_host, text, alike in ((1, "8p+8d", True), (4, "8p+8d", False), (4, "16m", True),
                                  (16, "8p+8d", True)):
        kinds = (hosted(per_host),)
        layout = parse_layout(text, kinds)
        assert spans_hosts(layout, kinds) is not alike
        part = slice_of(Candidate(layout, model_of(layout, kinds, work)), kinds, work,
                        Wishes(ttft=0.5, itl=0.05), length=Length(requests=2000, lives=10.0),
                        tokens=1e4, sessions=False)
        assert (part.layout.workers < 16) is alike


def test_other_hardware_stands_on_the_same_hosts() -> None:
    base = Case(name="", layout=parse_layout("1p+1d", (hosted(2),)), kinds=(hosted(2),))
    (other,) = case_of("made", base).kinds
    assert (other.per_host, other.machine.local_link) == (2, NEAR)


# -- commands --------------------------------------------------------------------------------


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", kind().machine.curve)


def asked(hardware: Path, *more: str) -> list[str]:
    return ["--hardware", str(hardware), "--prompt", "400", "--output", "16", "--rate", "8/s",
            "--ttft", "1s", "--itl", "60ms", "--link", "20MB/s", "--json", *more]


def test_neighbours_hand_over_faster_than_strangers(
    hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """9 MB of cache take half a second between hosts, nothing within one."""
    def end(*more: str) -> float:
        assert simulate.main(["2p+2d", *asked(hardware, "--requests", "40", *more)]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        return float(row["e2e_ms"]["p50"]["value"])

    apart, shared = end(), end("--workers-per-host", "2")
    together = end("--workers-per-host", "4", "--local-link", "10GB/s,10us")
    assert together < 0.7 * apart
    assert shared != apart


def test_a_plan_tells_of_its_hosts(
    hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = hardware.with_name("plan.json")
    assert command.main(asked(
        hardware, str(file), "--gpus", "2", "--effort", "quick", "--jobs", "1",
        "--workers-per-host", "2", "--local-link", "10GB/s",
    )) in (0, 2)
    plan = json.loads(file.read_text())
    assert plan["question"]["workers_per_host"] == 2
    (told,) = plan["kinds"]
    assert (told["link_bytes_per_s"], told["local_link_bytes_per_s"]) == (2e7, 1e10)
    split = next(each for each in plan["choices"] if each["shape"] == "disaggregated")
    assert split["traffic"]["link_bytes_per_s"] == 1e10
    assert "2 workers to a host: 10 GB/s within, 0.02 GB/s for all" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "said"), [
    (["--workers-per-host", "0"], "--workers-per-host must be at least 1, got 0"),
    (["--local-link", "10GB/s"], "give --workers-per-host 2 or more"),
    (["--workers-per-host", "2", "--local-link", "10GB"], "a speed ends in /s"),
])
def test_what_cannot_be_is_said(hardware: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate.main(["1p+1d", *asked(hardware, *options)])


def test_plans_of_before_had_a_host_for_each(hardware: Path) -> None:
    from planned import plan

    from baton.bench.planning.plan import Plan, encode

    written = json.loads(encode(plan()))
    del written["question"]["workers_per_host"]
    assert msgspec.convert(written, Plan).hosts is None
