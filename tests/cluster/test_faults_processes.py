"""Processes that die, stop, start again or are cut off, and clients that leave: one cluster of two
workers of each role takes it all, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from faults import SCALE, case_named, check, ground_of, some_asks

from baton.bench.faults import cancels, deaths, links
from baton.bench.faults.ground import Ground


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("faults")
    asks = some_asks()
    with ground_of(case_named("two of each"), folder, asks, patient=False) as ground:
        yield ground


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_killed_worker_costs_no_request(role: str, ground: Ground) -> None:
    verdict = check(deaths.kill(ground, role))
    assert verdict.detection is not None
    assert verdict.failed == 0


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_worker_that_stops_for_a_second_goes_on(role: str, ground: Ground) -> None:
    assert check(deaths.pause(ground, role, SCALE.short_pause)).failed == 0


def test_a_worker_that_was_given_up_comes_back_and_touches_nothing(ground: Ground) -> None:
    verdict = check(deaths.pause(ground, "decode", 5.0))
    assert verdict.detection is not None
    assert verdict.failed == 0


def test_a_worker_restarts_on_its_address(ground: Ground) -> None:
    assert check(deaths.restart(ground, "decode")).failed == 0


def test_the_router_restarts_on_its_address(ground: Ground) -> None:
    check(deaths.restart_router(ground))


@pytest.mark.parametrize("link", ["decode-0>router", ">decode-0"])
def test_a_cut_link_costs_no_request(link: str, ground: Ground) -> None:
    assert check(links.cut(ground, link, SCALE.cut)).failed == 0


def test_clients_that_leave_in_every_state_leave_nothing_behind(ground: Ground) -> None:
    verdict = check(cancels.cancels(ground, SCALE.cancels))
    assert sum(verdict.notes["cancelled_while"].values()) >= SCALE.cancels


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name, _ in case_named("two of each").faults])
def test_at_full_length(name: str, ground: Ground) -> None:
    fault = dict(case_named("two of each").faults)[name]
    check(fault(ground, replace(SCALE, rounds=5, cut=10.0, cancels=10_000)))
