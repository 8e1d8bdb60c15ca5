"""Waiting for one of k servers, against what is known of it."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from baton.router.planner.queueing import erlang_c, normal_below, waiting


@pytest.mark.parametrize("load", [0.05, 0.3, 0.7, 0.95])
def test_one_server_with_fixed_service_is_m_d_1(load: float) -> None:
    service = 0.072
    rate = load / service
    wait = waiting(1, rate, service, 0.0, 1.0)
    assert service + wait.mean == pytest.approx(
        service + rate * service**2 / (2 * (1 - rate * service))
    )


def test_one_server_is_pollaczek_and_khinchin() -> None:
    rate, service, scv = 3.0, 0.2, 4.0
    second_moment = service**2 * (1 + scv)
    assert waiting(1, rate, service, scv, 1.0).mean == pytest.approx(
        rate * second_moment / (2 * (1 - rate * service))
    )


def test_exponential_servers_are_m_m_k() -> None:
    # Erlang's tables: two servers at a load of one are both busy a third of the time.
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(1, 0.4) == pytest.approx(0.4)
    wait = waiting(2, 10.0, 0.1, 1.0, 1.0)
    assert wait.mean == pytest.approx(1 / 3 * 0.1 / (2 - 1))
    for seconds in (0.0, 0.05, 0.3):
        exact = 1 - 1 / 3 * math.exp(-(2 / 0.1 - 10.0) * seconds)
        assert wait.within(seconds) == pytest.approx(exact)


def test_the_ends() -> None:
    assert waiting(3, 0.0, 1.0, 1.0, 1.0).within(0.0) == 1.0
    full = waiting(2, 20.0, 0.1, 1.0, 1.0)
    assert full.mean == math.inf
    assert full.within(100.0) == 0.0
    assert full.within(math.inf) == 1.0
    assert waiting(1, 1.0, 0.1, 0.0, 1.0).within(-1e-9) == 0.0
    assert erlang_c(4, 4.0) == 1.0
    assert erlang_c(4, 0.0) == 0.0


def test_normal() -> None:
    assert normal_below(10.0, 10.0, 2.0) == 0.5
    assert normal_below(12.0, 10.0, 2.0) == pytest.approx(0.841344746)
    assert normal_below(9.9, 10.0, 0.0) == 0.0
    assert normal_below(math.inf, 1.0, 2.0) == 1.0


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.8)])
def test_the_tail_is_that_of_a_simulated_queue(servers: int, load: float) -> None:
    """Service times as prompts have them: lognormal. Two moments cannot say more than roughly."""
    rng = random.Random(3)
    service, sigma = 0.1, 0.8
    rate = load * servers / service
    free = [0.0] * servers
    now, waits = 0.0, []
    for _ in range(60_000):
        now += rng.expovariate(rate)
        start = max(now, heapq.heappop(free))
        waits.append(start - now)
        heapq.heappush(
            free, start + service * rng.lognormvariate(-sigma**2 / 2, sigma)
        )
    wait = waiting(servers, rate, service, math.exp(sigma**2) - 1, 1.0)
    assert wait.mean == pytest.approx(sum(waits) / len(waits), rel=0.1)
    for seconds in (0.05, 0.1, 0.2, 0.4):
        seen = sum(wait <= seconds for wait in waits) / len(waits)
        assert wait.within(seconds) == pytest.approx(seen, abs=0.03)
