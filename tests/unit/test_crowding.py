"""What another second of prompts costs those that are yet to come."""

from __future__ import annotations

from itertools import pairwise

import pytest

from baton.router.crowding import Pool


def test_one_worker_is_the_queue_that_everybody_knows() -> None:
    """M/M/1: half busy, half a prompt waits on average; a quarter of the prompts longer than s."""
    pool = Pool(0.5, 0.2)
    assert pool.waiting(0.5) == pytest.approx(0.5)
    assert pool.work_price == pytest.approx(3.0)  # d/dp of p^2 / (1 - p)


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_the_price_is_what_waiting_grows_by(workers: int) -> None:
    pool, little = Pool(0.6, 0.2, workers=workers), 1e-6
    grown = (pool.waiting(0.6 + little) - pool.waiting(0.6)) / little
    assert pool.work_price == pytest.approx(grown / workers, rel=1e-4)


def test_the_more_can_take_it_the_less_anybody_waits() -> None:
    prices = [Pool(0.5, 0.2, 1.0, 5.0, workers).work_price for workers in (1, 2, 4, 16)]
    assert all(more < 0.7 * fewer for fewer, more in pairwise(prices))
    slowing = [Pool(0.5, 0.2, 1.0, 5.0, workers).slowing_price(0.5) for workers in (1, 2, 4)]
    assert all(more < fewer for fewer, more in pairwise(slowing))


def test_fuller_is_dearer_and_ends_somewhere() -> None:
    prices = [Pool(pressure, 0.2, 1.0, 5.0, 4).work_price for pressure in (0.2, 0.5, 0.8, 0.95)]
    assert all(fuller > 2 * before for before, fuller in pairwise(prices))
    assert Pool(5.0, 0.2, workers=4).work_price == Pool(0.95, 0.2, workers=4).work_price


def test_who_has_nothing_to_do_costs_nobody_anything() -> None:
    assert Pool().work_price == 0.0
    assert Pool().slowing_price(1.0) == 0.0
