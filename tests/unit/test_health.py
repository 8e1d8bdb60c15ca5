"""Circuits: what opens and closes them, and what never does."""

from __future__ import annotations

import itertools
import random

import pytest

from baton.router.health import LEAST, MOST_PAUSE, PAUSE, PROBES, Health


class Pool:
    """`slow`: how many times as long a worker takes; `fails`: whose requests come to nothing."""

    def __init__(self, workers: int = 4, roles: tuple[str, ...] = ("decode",)) -> None:
        self.health: Health[str] = Health()
        self.roles = {f"{role}{n}": role for role in roles for n in range(workers)}
        self.slow: dict[str, float] = {}
        self.fails: set[str] = set()
        self.rand = random.Random(1)
        self.now = 0.0
        self.given: list[tuple[float, str]] = []

    def serve(self, seconds: float, rate: float = 20.0) -> None:
        """Requests go to workers at random, as far as they are used, and are over at once."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1 / rate
            self.check()
            probe = self.health.to_probe(self.roles, self.now)
            avoided = self.health.avoided(self.roles, self.now)
            worker = probe or self.rand.choice([w for w in self.roles if w not in avoided])
            self.given.append((self.now, worker))
            self.health.sent(worker, self.now)
            if worker in self.fails:
                self.health.failed(worker, self.roles, self.now)
            else:
                ratio = self.slow.get(worker, 1.0) * self.rand.lognormvariate(0.0, 0.3)
                self.health.latency(worker, ratio, self.roles, self.now)

    def check(self) -> None:
        for role in set(self.roles.values()):
            mine = {w for w, of in self.roles.items() if of == role}
            assert len(self.health.avoided(self.roles, self.now) & mine) <= len(mine) // 2

    def share(self, worker: str, since: float) -> float:
        """Of what was given to all."""
        given = [name for at, name in self.given if at >= since]
        return given.count(worker) / len(given)

    def state(self, worker: str) -> str:
        return self.health.circuits(self.now)[worker].state


def test_nothing_is_opened_by_noise_or_by_what_is_slow_or_fails_everywhere() -> None:
    pool = Pool()
    pool.serve(100)
    pool.slow = dict.fromkeys(pool.roles, 20.0)
    pool.serve(50)
    pool.fails = set(pool.roles)
    pool.serve(50)
    assert {pool.state(worker) for worker in pool.roles} == {"closed"}


@pytest.mark.parametrize("trouble", ["slow", "fails"])
def test_an_outlier_gets_almost_nothing_within_seconds_and_is_taken_back(trouble: str) -> None:
    pool = Pool()
    pool.serve(10)
    if trouble == "slow":
        pool.slow = {"decode1": 5.0}
    else:
        pool.fails = {"decode1"}
    pool.serve(2)
    assert pool.state("decode1") != "closed"
    since = pool.now
    pool.serve(60)
    assert pool.share("decode1", since) < 0.01
    pool.slow, pool.fails = {}, set()
    pool.serve(MOST_PAUSE + 2)
    assert pool.state("decode1") == "closed"
    since = pool.now
    pool.serve(20)
    assert pool.share("decode1", since) > 0.15


def test_pauses_double_and_probes_come_one_at_a_time() -> None:
    pool = Pool(2)
    pool.fails = {"decode0"}
    pool.serve(60)
    probes = [at for at, worker in pool.given if worker == "decode0"][LEAST:]
    gaps = [after - before for before, after in itertools.pairwise(probes)]
    assert gaps[:4] == pytest.approx([2 * PAUSE, 4 * PAUSE, 8 * PAUSE, MOST_PAUSE], abs=0.2)
    health = pool.health
    pool.now += MOST_PAUSE
    assert health.to_probe(pool.roles, pool.now) == "decode0"
    health.sent("decode0", pool.now)
    assert health.to_probe(pool.roles, pool.now) is None
    assert health.avoided(pool.roles, pool.now) == {"decode0"}
    health.released("decode0")  # its client went away
    assert health.to_probe(pool.roles, pool.now) == "decode0"
    for _ in range(PROBES):
        health.sent("decode0", pool.now)
        health.latency("decode0", 1.0, pool.roles, pool.now)
    assert pool.state("decode0") == "closed"


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_never_more_than_half_of_a_pool_is_left_alone(workers: int) -> None:
    """`Pool.check` holds at each moment; one alone is always used."""
    pool = Pool(workers, ("prefill", "decode"))
    pool.serve(10)
    for seed in range(20):
        rand = random.Random(seed)
        pool.slow = {w: rand.choice([1.0, 5.0, 30.0]) for w in pool.roles}
        pool.fails = {w for w in pool.roles if rand.random() < 0.3}
        pool.serve(5)
    if workers == 1:
        assert pool.health.avoided(pool.roles, pool.now) == set()


def test_of_a_pool_that_shrinks_only_the_worst_stay_open() -> None:
    pool = Pool(6)
    for _ in range(2 * LEAST):
        for worker in pool.roles:
            ratio = {"decode0": 5.0, "decode1": 50.0}.get(worker, 1.0)
            pool.health.latency(worker, ratio, pool.roles, 0.0)
    assert pool.health.avoided(pool.roles, 0.5) == {"decode0", "decode1"}
    for worker in ("decode2", "decode3", "decode4"):
        del pool.roles[worker]
        pool.health.gone(worker)
    assert pool.health.avoided(pool.roles, 0.5) == {"decode1"}
    pool.health.gone("decode1")
    del pool.roles["decode5"], pool.roles["decode1"]
    assert pool.health.avoided(pool.roles, 0.5) == set()


def test_what_does_not_end_counts_as_well() -> None:
    pool = Pool(4)
    pool.serve(5)
    for second in range(LEAST + 1):
        pool.health.overdue("decode0", 40.0 + second, pool.roles, pool.now + second)
    assert pool.state("decode0") == "open"
    pool.health.overdue("decode1", 2.0, pool.roles, pool.now)
    assert pool.state("decode1") == "closed"


def test_work_that_is_not_timed_closes_what_failed() -> None:
    pool = Pool(3)
    for _ in range(2 * LEAST):
        pool.health.failed("decode0", pool.roles, 0.0)
        pool.health.worked("decode1", pool.roles, 0.0)
    assert pool.state("decode0") == "open"
    for _ in range(PROBES):
        pool.health.worked("decode0", pool.roles, PAUSE)
    assert pool.state("decode0") == "closed"
