"""The runner without a model: how long its steps take, and what it answers."""

from __future__ import annotations

import math
from statistics import mean, stdev

from make_request import make_request

from baton.engine.batch import BatchItem, step_shape
from baton.engine.paced_runner import PacedRunner
from baton.engine.scripted import script_seed, scripted_token
from baton.engine.sequence import Sequence
from baton.protocol.curves import StepCurve, StepShape
from baton.protocol.kvlayout import KVLayout

LAYOUT = KVLayout(1, 1, 8, 16, "float32")


def curve(spread: float = 0.0) -> StepCurve:
    return StepCurve(base=10e-3, chunk=1e-3, token=1e-4, pair=1e-8, decode=1e-3, context=1e-6,
                     spread=spread, steps=1)


class Time:
    """A clock that only sleeping moves, and thinking by `thinks` a look."""

    def __init__(self, thinks: float = 0.0) -> None:
        self.now = 0.0
        self.thinks = thinks
        self.slept: list[float] = []

    def clock(self) -> float:
        self.now += self.thinks
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def item(prompt: int, computed: int, count: int, *, seed: int = 1, name: str = "r") -> BatchItem:
    request = make_request(name, range(prompt), seed=seed, max_tokens=50, eos=(2,))
    seq = Sequence.from_request(request, hold=False)
    seq.num_computed = computed
    return BatchItem(seq, count, computed + count == prompt)


def test_a_step_takes_what_the_curve_says_of_its_shape() -> None:
    time = Time()
    runner = PacedRunner(curve(), LAYOUT, seed=1, clock=time.clock, sleep=time.sleep)
    batch = [item(100, 32, 68), item(200, 0, 64), item(30, 29, 1)]
    runner.step(batch)
    expected = StepShape.chunk(68, 32) + StepShape.chunk(64) + StepShape.decodes(1, 30)
    assert step_shape(batch) == expected
    assert math.isclose(time.now, curve().seconds(expected))


def test_the_time_it_needs_itself_counts() -> None:
    time = Time(thinks=4e-3)
    runner = PacedRunner(curve(), LAYOUT, seed=1, clock=time.clock, sleep=time.sleep)
    runner.step([item(30, 29, 1)])
    assert math.isclose(time.slept[0], curve().seconds(StepShape.decodes(1, 30)) - 4e-3)
    time.thinks = 1.0
    runner.step([item(30, 29, 1)])
    assert len(time.slept) == 1


def test_its_noise_is_seeded_and_of_the_curves_spread() -> None:
    def durations(seed: int) -> list[float]:
        time = Time()
        runner = PacedRunner(curve(0.2), LAYOUT, seed=seed, clock=time.clock, sleep=time.sleep)
        for _ in range(400):
            runner.step([item(30, 29, 1)])
        return time.slept

    first, again, other = durations(1), durations(1), durations(2)
    assert first == again != other
    logs = [math.log(seconds) for seconds in first]
    exact = math.log(curve().seconds(StepShape.decodes(1, 30)))
    assert abs(mean(logs) - exact) < 0.04
    assert 0.17 < stdev(logs) < 0.23


def test_tokens_follow_from_the_seed_and_end_where_it_says() -> None:
    request = make_request("r", range(5), seed=script_seed(8, 12345), max_tokens=50, eos=(2,))
    tokens = [scripted_token(request, position) for position in range(8)]
    assert tokens[7] == 2
    assert 2 not in tokens[:7]
    assert len(set(tokens)) == 8
    endless = make_request("r", range(5), seed=script_seed(0, 12345), max_tokens=50, eos=(2,))
    assert 2 not in [scripted_token(endless, position) for position in range(50)]


def test_only_the_last_chunk_draws_a_token() -> None:
    time = Time()
    runner = PacedRunner(curve(), LAYOUT, seed=1, clock=time.clock, sleep=time.sleep)
    result = runner.step([item(100, 0, 64), item(100, 64, 36)])
    assert result.tokens[0] is None
    assert result.tokens[1] is not None
    assert len(result.logprobs) == len(result.prompt_logprobs) == 2
