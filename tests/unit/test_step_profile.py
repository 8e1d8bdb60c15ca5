"""Timing steps before serving, and the file that it leaves."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from baton.deploy.worker import profiling
from baton.engine.batch import BatchItem, StepResult
from baton.engine.step_fit import fit_steps
from baton.engine.step_profile import Bounds, Case, StepTimer, random_case, self_profile
from baton.protocol.curves import StepCurve, StepShape, attention_pairs
from baton.protocol.profile import HeldOut, Profile, decode_profile, encode_profile

TRUTH = StepCurve(
    base=0.01, chunk=0.003, token=4e-4, pair=3e-7, decode=5e-4, context=2e-6, spread=0.1, steps=0
)
BOUNDS = Bounds(batch_tokens=512, running=64, context=2048)
NUM_BLOCKS, BLOCK_SIZE = 40, 16


class TimedRunner:
    """Takes what the true curve says, by a clock of its own; a kind of step takes ten times as
    long when it is run for the first time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: set[StepShape] = set()
        self.batches: list[list[BatchItem]] = []

    def step(self, items: Sequence[BatchItem]) -> StepResult:
        self.batches.append(list(items))
        shape = StepShape()
        for item in items:
            past, count = item.seq.num_computed, item.num_tokens
            shape += (
                StepShape.decodes(1, past + 1) if count == 1 else StepShape.chunk(count, past)
            )
        self.now += TRUTH.seconds(shape) * (1 if shape in self.seen else 10)
        self.seen.add(shape)
        return StepResult([0] * len(items), [None] * len(items), [None] * len(items))

    def timer(self) -> StepTimer:
        return StepTimer(self, NUM_BLOCKS, BLOCK_SIZE, lambda: self.now)


def test_a_case_is_run_as_it_says_on_blocks_of_the_pool() -> None:
    runner = TimedRunner()
    case = Case(decodes=(1, 100), chunks=((33, 0), (20, 600)))
    seconds = runner.timer().run(case)
    assert case.shape == StepShape(2, 53, attention_pairs(33, 0) + attention_pairs(20, 600), 2, 101)
    assert seconds == pytest.approx(10 * TRUTH.seconds(case.shape))
    for item in runner.batches[0]:
        covered = item.seq.num_computed + item.num_tokens
        assert len(item.seq.tokens) == covered
        assert len(item.seq.block_ids) * BLOCK_SIZE >= covered
        assert all(0 <= block < NUM_BLOCKS for block in item.seq.block_ids)
    first, second = (runner.batches[0][place].seq.block_ids for place in (0, 1))
    assert not set(first) & set(second)


def test_with_time_a_self_profile_finds_the_curve() -> None:
    runner = TimedRunner()
    samples = self_profile(runner.timer(), BOUNDS, 60.0, clock=lambda: runner.now)
    assert len(samples) == 11
    curve = fit_steps(samples)
    rng = random.Random(0)
    for _ in range(100):
        shape = random_case(rng, BOUNDS).shape
        assert curve.seconds(shape) == pytest.approx(TRUTH.seconds(shape), rel=0.1)


@pytest.mark.parametrize("budget", [0.5, 2.0])
def test_a_self_profile_ends_in_about_its_time(budget: float) -> None:
    cold = TimedRunner()
    some = self_profile(cold.timer(), BOUNDS, budget, clock=lambda: cold.now)
    assert some
    # It cannot know what a first run costs beyond the second: here the worst case, ten times.
    assert cold.now < 7 * budget
    everything = TimedRunner()
    self_profile(everything.timer(), BOUNDS, 60.0, clock=lambda: everything.now)
    warm = TimedRunner()
    warm.seen = everything.seen
    more = self_profile(warm.timer(), BOUNDS, budget, clock=lambda: warm.now)
    assert warm.now < 1.2 * budget
    assert len(some) <= len(more) <= 11


def test_a_worker_with_little_room_is_profiled_within_it() -> None:
    tiny = Bounds(batch_tokens=3, running=2, context=8)
    runner = TimedRunner()
    samples = self_profile(runner.timer(), tiny, 60.0, clock=lambda: runner.now)
    assert samples
    rng = random.Random(1)
    for _ in range(200):
        runner.timer().run(random_case(rng, tiny))
    for batch in runner.batches:
        assert all(item.seq.num_computed + item.num_tokens <= 8 for item in batch)


def test_random_steps_keep_within_the_bounds_and_cover_them() -> None:
    rng = random.Random(2)
    cases = [random_case(rng, BOUNDS) for _ in range(500)]
    for case in cases:
        shape = case.shape
        assert 0 < shape.prefill_tokens + shape.decode_sequences <= BOUNDS.batch_tokens
        assert shape.decode_sequences <= BOUNDS.running
        assert all(1 <= context <= BOUNDS.context for context in case.decodes)
        assert all(tokens + past <= BOUNDS.context for tokens, past in case.chunks)
        assert all(tokens >= 2 and past >= 0 for tokens, past in case.chunks)
    assert sum(bool(case.decodes) and bool(case.chunks) for case in cases) > 100
    assert max(case.shape.prefill_tokens for case in cases) > 300
    assert max(case.shape.decode_sequences for case in cases) > 50


# -- the file --------------------------------------------------------------------------------

PROFILE = Profile(
    model="m",
    fingerprint="f",
    dtype="bfloat16",
    device="cpu",
    device_name="a processor",
    threads=2,
    block_size=16,
    curve=msgspec.structs.replace(TRUTH, steps=3, covariance=tuple(float(i) for i in range(21))),
    samples=((StepShape.chunk(7, 5), 0.02), (StepShape.decodes(2, 30), 0.01)),
    error=HeldOut(steps=4, median=0.05, p90=0.2, again_median=0.02, again_p90=0.1),
    machine={"cpu": "a processor", "cores": 2},
)


def test_a_profile_survives_its_file() -> None:
    assert decode_profile(encode_profile(PROFILE)) == PROFILE
    without = msgspec.structs.replace(PROFILE, error=None, samples=())
    assert decode_profile(encode_profile(without)) == without


@pytest.mark.parametrize(("old", "new"), [
    ('"format": 1', '"format": 2'),
    ('"base": 0.01', '"base": -0.01'),
    ('"base": 0.01,', ""),
    ('"seconds"', '"hours"'),
    ('"threads": 2', '"threads": "two"'),
    ("{", "["),
])
def test_what_is_no_profile_is_refused_in_one_line(old: str, new: str) -> None:
    text = encode_profile(PROFILE).decode()
    assert old in text
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        decode_profile(text.replace(old, new, 1).encode())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_kept_profile_is_found_by_what_speed_depends_on(cache: Path) -> None:
    assert profiling.load_profile(PROFILE.key) is None
    profiling.keep_profile(PROFILE)
    assert profiling.load_profile(PROFILE.key) == PROFILE
    assert [path.suffix for path in profiling.profile_path(PROFILE.key).parent.iterdir()] == [
        ".json"
    ]
    for field, value in [("threads", 1), ("fingerprint", "g"), ("device_name", "another"),
                         ("block_size", 32), ("device", "cuda")]:
        other = msgspec.structs.replace(PROFILE, **{field: value})
        assert profiling.load_profile(other.key) is None, field
    on_gpu = msgspec.structs.replace(PROFILE, device="cuda")
    assert on_gpu.key == msgspec.structs.replace(on_gpu, threads=7).key


def test_a_damaged_or_unwritable_cache_costs_a_line_in_the_log(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = profiling.profile_path(PROFILE.key)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    assert profiling.load_profile(PROFILE.key) is None
    assert "the kept profile is not used" in caplog.text
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("a file where the folder should be")
    profiling.keep_profile(PROFILE)
    assert "not kept" in caplog.text
