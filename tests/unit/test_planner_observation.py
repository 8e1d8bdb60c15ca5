"""Lengths of answers that are not over, and changes that are told from noise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from baton.router.planner.lifetimes import completed, ended_differently
from baton.router.planner.observation import COLD, SAMPLE, Observation


def test_lengths_of_what_has_ended_are_known() -> None:
    assert completed([(5, True), (9, True)], 100.0) == ([5, 9], 0.0)
    assert completed([], 10.0) == ([], 0.0)


def test_equal_answers_are_foreseen_from_the_first_that_end() -> None:
    """All are 64 tokens long; those that run are at every place."""
    lives = [(64, True)] * 20 + [(age, False) for age in range(0, 64, 4)]
    assert completed(lives, 500.0)[0][20:] == pytest.approx([64.0] * 16)


def test_where_nothing_has_ended_the_prior_counts_less_and_less() -> None:
    short, unseen = completed([(10, False)] * 3, 50.0)
    long, _ = completed([(400, False)] * 3, 50.0)
    assert 40 < short[0] < 130
    assert unseen > 0.7
    assert long[0] > 800
    seen = completed([(10, False)] * 3 + [(20, True)] * 30, 50.0)
    assert seen[0][0] == pytest.approx(20)
    assert seen[1] < 0.01


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_a_few_seconds_after_a_change_lengths_are_extrapolated_within_half(shape: float) -> None:
    """A quarter of the answers have ended, those that began at even intervals."""
    rng = random.Random(6)
    drawn = [max(1.0, rng.gammavariate(shape, 300 / shape)) for _ in range(400)]
    cuts = [rng.uniform(0, 180) for _ in drawn]
    lives = [(int(min(a, b)), a <= b) for a, b in zip(drawn, cuts, strict=True)]
    lengths, unseen = completed(lives, 60.0)
    assert sum(lengths) / len(lengths) == pytest.approx(300, rel=0.5)
    assert unseen > 0.2


def test_estimates_are_not_biased_by_what_is_cut_off() -> None:
    rng = random.Random(4)
    lengths = [max(1, int(rng.expovariate(1 / 200))) for _ in range(3000)]
    lives = [
        (length, True) if length <= cut else (cut, False)
        for length, cut in ((length, rng.randint(1, 400)) for length in lengths)
    ]
    naive = [tokens for tokens, over in lives if over]
    estimated = sum(completed(lives, 10.0)[0]) / len(lives)
    true = sum(lengths) / len(lengths)
    assert sum(naive) / len(naive) < 0.6 * true
    assert estimated == pytest.approx(true, rel=0.06)


def test_longer_and_shorter_answers_are_noticed_before_they_end() -> None:
    before = [(64, True)] * 100
    assert ended_differently([(90, False)] * 30, before) < -4.5
    assert ended_differently([(20, True)] * 30, before) > 4.5
    assert abs(ended_differently([(64, True)] * 25 + [(30, False)] * 30, before)) < 1


def test_the_same_answers_differ_as_chance_has_it() -> None:
    rng = random.Random(8)

    def lives(count: int) -> list[tuple[int, bool]]:
        drawn = [
            (max(1, int(rng.lognormvariate(5, 0.8))), rng.randint(20, 500)) for _ in range(count)
        ]
        return [(min(size, cut), size <= cut) for size, cut in drawn]

    scores = [ended_differently(lives(60), lives(300)) for _ in range(400)]
    assert max(map(abs, scores)) < 4.2
    assert math.sqrt(sum(score**2 for score in scores) / 400) == pytest.approx(1, abs=0.25)


class Stream:
    """Requests at a rate whose lengths and answers are drawn; a token takes `itl` seconds."""

    def __init__(self, seed: int, *, itl: float = 0.03) -> None:
        self.rng = random.Random(seed)
        self.seen = Observation()
        self.now = 0.0
        self.itl = itl
        self.running: list[tuple[int, float, int]] = []
        self.number = 0

    def run(
        self, seconds: float, rate: float, prompt: float, output: float, sigma: float = 0.7,
        stop_at_change: bool = True,
    ) -> tuple[float | None, int]:
        """When a change was seen first, and how many."""
        end, check = self.now + seconds, self.now + 1.0
        start, first, changes = self.now, None, 0
        while self.now < end:
            self.now += self.rng.expovariate(rate)
            for number, at, size in list(self.running):
                if self.now - at >= size * self.itl:
                    self.seen.ended(number, size, 0)
                    self.running.remove((number, at, size))
            while check < self.now:
                check += 1.0
                if self.seen.changed(self.now):
                    changes += 1
                    first = self.now - start if first is None else first
            self.number += 1
            size = max(1, int(self._drawn(output, sigma)))
            self.seen.arrived(
                self.number, self.now, max(1, int(self._drawn(prompt, sigma))), 4096, 1.0, 0.05,
                self._produced(self.now, size),
            )
            self.running.append((self.number, self.now, size))
        return first, changes

    def _drawn(self, mean: float, sigma: float) -> float:
        return mean * self.rng.lognormvariate(-sigma**2 / 2, sigma)

    def _produced(self, at: float, size: int) -> Callable[[], int]:
        return lambda: min(size, int((self.now - at) / self.itl))


def test_nothing_is_sure_before_caches_were_seen_and_nothing_said_in_the_first_seconds() -> None:
    seen = Observation()
    assert seen.age(7.0) == math.inf

    def come(start: int, end: int) -> None:
        for number in range(start, end):
            seen.arrived(number, 0.1 * number, 1000, 256, 1.0, 0.05, lambda: 10)

    come(0, 28)
    assert seen.estimate(2.9) is None
    come(28, 40)
    assert seen.age(4.0) == pytest.approx(4.0)
    for number in range(20):
        seen.ended(number, 20, 0)
    cold = seen.estimate(4.0)
    assert cold is not None
    assert cold.prefill_error > COLD  # those that came late may find what the early ones left
    for number in range(20, 40):
        seen.ended(number, 20, 500)
    warm = seen.estimate(4.1)
    assert warm is not None
    assert warm.prefill_error < 0.25
    assert warm.workload.tokens < 0.8 * cold.workload.tokens
    come(40, 80)
    later = seen.estimate(8.0)  # caches stay as warm as they were
    assert later is not None
    assert later.prefill_error < 0.25


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_load_does_not_change(seed: int) -> None:
    stream = Stream(seed)
    _, changes = stream.run(250.0, 12.0, 900.0, 150.0, sigma=1.0)
    assert changes == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("rate", "prompt", "output"),
    [(12.0, 2400.0, 60.0), (12.0, 300.0, 500.0), (4.0, 900.0, 150.0), (12.0, 900.0, 500.0)],
)
def test_a_shift_is_seen_within_seconds(
    seed: int, rate: float, prompt: float, output: float
) -> None:
    stream = Stream(seed)
    stream.run(100.0, 12.0, 900.0, 150.0)
    first, changes = stream.run(60.0, rate, prompt, output)
    assert first is not None
    assert first <= 13.0
    assert changes <= 3


def test_after_a_shift_the_estimate_is_of_the_new_load() -> None:
    stream = Stream(3)
    stream.run(100.0, 12.0, 900.0, 400.0)
    stream.run(12.0, 12.0, 2500.0, 60.0)
    got = stream.seen.estimate(stream.now)
    assert got is not None
    assert got.workload.tokens == pytest.approx(2500, rel=0.3)
    assert got.workload.gaps == pytest.approx(60, rel=0.3)
    assert got.seconds < 20
    assert 0.02 < got.prefill_error < 0.3


def test_an_estimate_of_a_long_steady_load_is_close_and_says_so() -> None:
    stream = Stream(9)
    stream.run(150.0, 5.0, 700.0, 200.0)
    got = stream.seen.estimate(stream.now)
    assert got is not None
    assert got.workload.rate == pytest.approx(5.0, rel=0.12)
    assert got.workload.tokens == pytest.approx(700, rel=0.1)
    assert got.workload.gaps == pytest.approx(200, rel=0.12)
    assert got.decode_error < 0.08
    assert Observation().estimate(0.0) is None


def test_what_is_kept_is_bounded() -> None:
    stream = Stream(1)
    stream.run(100.0, 40.0, 10.0, 5.0)
    assert len(stream.seen._sample) <= 400
    assert len(stream.seen._fresh) <= 256
    assert len(stream.seen._running) <= len(stream.running)
    assert len(stream.seen._seconds) <= 121
    assert stream.seen.estimate(stream.now + 1000.0) is None


def test_a_router_that_nobody_asks_forgets_as_well_and_can_tell_when_it_takes_over() -> None:
    seen, now, number = Observation(), 0.0, 0

    def come(gap: float, count: int) -> None:
        nonlocal now, number
        for _ in range(count):
            seen.arrived(number, now, 100, 10, 1.0, 1.0, lambda: 10)
            seen.ended(number, 10, None)
            now, number = now + gap, number + 1

    come(0.36, 20_000)
    assert len(seen._seconds) <= 125
    assert seen.estimate(now) is not None
    come(0.01, 20_000)  # of these one in many is looked at
    assert len(seen._sample) <= SAMPLE
    assert seen._stride > 16
    come(1.0, 200)  # and of these every one
    found = seen.estimate(now)
    assert found is not None
    assert found.workload.rate == pytest.approx(1.0, rel=0.02)
    assert found.count == pytest.approx(120, abs=1)
    assert len(seen._sample) > 60
    assert seen._running == {}


def test_poisson_arrivals_are_not_bursty() -> None:
    """However the seconds fall: none may seem to be empty that is not."""
    rand, seen, now = random.Random(3), Observation(), 0.3
    while now < 60.0:
        seen.arrived(now, now, 100, 64, 1.0, 0.1, lambda: 1)
        now += rand.expovariate(20.0)
    found = seen.estimate(now)
    assert found is not None
    assert 0.5 < found.workload.burstiness < 1.5


def test_answers_are_as_long_as_those_to_such_prompts() -> None:
    """Of long prompts that are refused, nothing says that they would be answered at length."""
    seen = Observation()
    for place in range(200):
        long = place % 2 == 0
        seen.arrived(place, place * 0.1, 2000 if long else 100, 400, 1.0, 0.1, lambda: 0)
        if long and place % 4 == 0:
            seen.refused(place)
        else:
            seen.ended(place, 20 if long else 200, 0)
    found = seen.estimate(20.0)
    assert found is not None
    lengths = [item.output for item in found.workload.items if item.prompt == 2000]
    assert max(lengths) < 60


def test_caches_that_have_filled_count_as_they_are_now() -> None:
    seen = Observation()
    for place in range(200):
        seen.arrived(place, place * 0.1, 1000, 64, 1.0, 0.1, lambda: 0)
        seen.ended(place, 20, 0 if place < 50 else 600)
    found = seen.estimate(20.0)
    assert found is not None
    assert found.workload.tokens == pytest.approx(400, rel=0.05)
