"""Percentiles of forecasts, what hand-offs ask of links, and layouts of unlike workers."""

from __future__ import annotations

import math

import msgspec
import pytest

from baton.protocol.curves import LinkCurve, StepCurve
from baton.router.planner.layouts import Device, LayoutModel, Sized
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.queueing import waiting
from baton.router.planner.split import Fleet, Group, Split
from baton.router.planner.tails import Between, FirstToken, Tails, mixed
from baton.router.planner.transfers import request_bytes, traffic
from baton.router.planner.workload import Item, Workload

CURVE = StepCurve(base=0.01, chunk=0.0, token=1e-4, pair=0.0, decode=2e-4, context=1e-7,
                  spread=0.0, steps=0)
KIND = Kind(CURVE, 400_000, 256)
LINK = LinkCurve(latency=1e-3, byte=1e-9, spread=0.0, transfers=1)
DEVICE = Device(KIND, LINK, 1000.0)
ITEM = Item(1000, 0, 50, 1.0, 0.04)


# -- tails -----------------------------------------------------------------------------------


def test_a_first_token_without_waiting_comes_after_its_own_time() -> None:
    tails = Tails((FirstToken(1.0, 0.2, waiting(1, 0.0, 0.2, 0.0, 1.0)),))
    assert tails.ttft(0.5) == pytest.approx(0.2, rel=1e-3)
    assert tails.ttft(0.99) == pytest.approx(0.2, rel=1e-3)
    assert tails.ttft_within(0.19) == 0.0


def test_the_tail_of_a_queue_is_that_of_its_wait() -> None:
    """M/M/1 at load 0.8: the wait is above t with chance 0.8 exp(-0.2 t / service)."""
    wait = waiting(1, 0.8, 1.0, 1.0, 1.0)
    tails = Tails((FirstToken(1.0, 1.0, wait),))
    seconds = math.log(0.8 / 0.05) / 0.2
    assert tails.ttft(0.95) == pytest.approx(1.0 + seconds, rel=1e-3)


def test_percentiles_of_a_mixture_are_of_all_together() -> None:
    nobody = waiting(1, 0.0, 1.0, 0.0, 1.0)
    short = Tails((FirstToken(1.0, 0.1, nobody),), (Between(1.0, 0.02, 0.0),))
    long = Tails((FirstToken(1.0, 1.0, nobody),), (Between(1.0, 0.05, 0.0),))
    both = mixed((0.9, short), (0.1, long), (0.0, Tails((FirstToken(1.0, 99.0, nobody),))))
    assert both.ttft(0.89) == pytest.approx(0.1, rel=1e-3)
    assert both.ttft(0.95) == pytest.approx(1.0, rel=1e-3)
    assert both.itl(0.89) == pytest.approx(0.02, rel=1e-3)
    assert both.itl(0.95) == pytest.approx(0.05, rel=1e-3)


def test_between_tokens_as_the_batch_varies() -> None:
    tails = Tails(between=(Between(1.0, 0.03, 0.01),))
    assert tails.itl(0.5) == pytest.approx(0.03, rel=1e-3)
    assert tails.itl(0.975) == pytest.approx(0.03 + 1.96 * 0.01, rel=1e-3)


def test_what_never_comes_is_infinite_and_nothing_is_in_time() -> None:
    never = Tails((FirstToken(1.0, 1.0, waiting(1, 2.0, 1.0, 0.0, 1.0)),),
                  (Between(1.0, math.inf, 0.0),))
    assert never.ttft(0.5) == math.inf
    assert never.itl(0.5) == math.inf
    assert Tails().ttft_within(0.0) == 1.0


def test_the_tail_agrees_with_the_attained_share() -> None:
    """What a forecast attains is the share of its own tail that lies within the target."""
    for rate in (2.0, 6.0, 8.5):
        model = PhaseModel(Workload(rate, (ITEM,)), KIND)
        read = model.prefill(1, rate)
        assert Tails(read.tail).ttft_within(ITEM.ttft) == pytest.approx(read.attained[0])


def test_a_forecast_has_the_tails_of_its_pools() -> None:
    found = Fleet([Group(KIND, 3)], Workload(5.0, (ITEM,))).forecast(Split(1, 1, 1))
    assert found.tails.ttft(0.5) <= found.tails.ttft(0.95)
    assert found.tails.ttft_within(ITEM.ttft) == pytest.approx(found.attained_ttft, abs=1e-6)


# -- transfers -------------------------------------------------------------------------------


def test_only_what_is_computed_and_decoded_elsewhere_travels() -> None:
    items = (Item(1000, 200, 50), Item(1000, 0, 1))
    assert request_bytes(Workload(1.0, items), 1000.0) == pytest.approx(400_000.0)


def test_links_carry_what_senders_or_receivers_can() -> None:
    workload = Workload(1.0, (ITEM,))
    found = traffic(workload, LINK, 1000.0, KIND, rate=10.0, senders=4, receivers=2)
    assert found.bytes_per_second == pytest.approx(10 * 1e6)
    assert found.capacity == pytest.approx(2e9)
    assert found.share == pytest.approx(0.005)


def test_a_fast_link_exposes_the_last_chunk_and_a_slow_one_what_it_is_slower() -> None:
    workload = Workload(1.0, (ITEM,))
    fast = traffic(workload, LINK, 1000.0, KIND, rate=0.0, senders=1, receivers=1)
    assert fast.exposed == pytest.approx(1e-3 + 512 * 1000 * 1e-9)
    slow_link = msgspec.structs.replace(LINK, byte=1e-6)
    slow = traffic(workload, slow_link, 1000.0, KIND, rate=0.0, senders=1, receivers=1)
    reading = CURVE.prefill_seconds(1000, 0, 512)
    assert slow.exposed == pytest.approx(1e-3 + 1.0 - reading)


def test_links_that_are_full_have_no_end_of_waiting() -> None:
    workload = Workload(1.0, (ITEM,))
    slow_link = msgspec.structs.replace(LINK, byte=1e-6)
    found = traffic(workload, slow_link, 1000.0, KIND, rate=1.1, senders=1, receivers=1)
    assert found.share > 1
    assert found.exposed == math.inf


# -- layouts ---------------------------------------------------------------------------------


def test_of_alike_workers_a_layout_is_the_split() -> None:
    workload = Workload(5.0, (ITEM,))
    model = LayoutModel(workload, prefill=Sized(DEVICE, 2), decode=Sized(DEVICE, 1))
    fleet = Fleet([Group(KIND, 3)], workload)
    assert model.split == Split(2, 1, 0)
    assert model.bound == pytest.approx(fleet.capacity(Split(2, 1, 0))[0])
    handoff = model.traffic(5.0)
    assert handoff is not None
    same = Fleet([Group(KIND, 3)], workload, handoff.exposed).forecast(Split(2, 1, 0))
    assert model.forecast(5.0).goodput == pytest.approx(same.goodput)


def test_the_capacity_is_the_highest_rate_that_attains() -> None:
    model = LayoutModel(Workload(1.0, (ITEM,)), prefill=Sized(DEVICE, 1), decode=Sized(DEVICE, 1))
    found = model.capacity(0.95)
    assert 0 < found.rate < model.bound
    assert model.forecast(found.rate).goodput >= 0.95
    assert model.forecast(1.01 * found.rate).goodput < 0.95
    assert found.binds in ("prefill", "ttft")
    assert found.forecast.tails.ttft(0.9) <= ITEM.ttft


def test_roles_keep_their_own_kinds() -> None:
    """A fast worker that decodes beside a slow one that reads is not swapped for what suits
    better."""
    quick = Device(Kind(CURVE.scaled(0.25), 400_000, 256), LINK, 1000.0)
    workload = Workload(1.0, (ITEM,))
    slow_reads = LayoutModel(workload, prefill=Sized(DEVICE, 1), decode=Sized(quick, 1))
    fast_reads = LayoutModel(workload, prefill=Sized(quick, 1), decode=Sized(DEVICE, 1))
    assert fast_reads.capacity(0.95).rate > 2 * slow_reads.capacity(0.95).rate


def test_a_slow_link_binds() -> None:
    slow = DEVICE._replace(link=msgspec.structs.replace(LINK, byte=1e-6))
    workload = Workload(1.0, (ITEM._replace(itl=1.0),))
    model = LayoutModel(workload, prefill=Sized(slow, 1), decode=Sized(DEVICE, 1))
    assert model.bound == pytest.approx(0.95)
    assert model.capacity(0.9).binds in ("link", "itl")
    alone = LayoutModel(workload, mixed=Sized(slow, 2))
    assert alone.traffic(1.0) is None


def test_a_layout_where_nobody_decodes_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot serve"):
        LayoutModel(Workload(1.0, (ITEM,)), prefill=Sized(DEVICE, 2))
