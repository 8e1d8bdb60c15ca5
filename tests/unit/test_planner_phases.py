"""What a pool makes of a workload, against closed forms and a simulated batch."""

from __future__ import annotations

import math
import random

import pytest

from baton.protocol.curves import StepCurve, StepShape
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.workload import Item, Workload, burstiness

CURVE = StepCurve(
    base=0.015, chunk=0.001, token=1e-4, pair=1e-8, decode=1e-4, context=6e-7, spread=0.0, steps=0
)
BIG = 10**7


def kind(curve: StepCurve = CURVE, *, tokens: int = BIG, step_tokens: int = 512) -> Kind:
    return Kind(curve, tokens, 1024, step_tokens)


def test_one_prefill_worker_is_m_d_1() -> None:
    work = Workload(5.0, (Item(512, 0, 1, 0.4),))
    model = PhaseModel(work, kind())
    service = CURVE.prefill_seconds(512, 0, 512)
    assert model.prefill(1, 5.0).ttft == pytest.approx(
        service + 5.0 * service**2 / (2 * (1 - 5.0 * service))
    )
    assert model.prefill_rate == pytest.approx(1 / service)
    assert model.prefill(1, 1.01 / service).attained == (0.0,)
    assert model.prefill(2, 1.01 / service).attained[0] > 0.9


def test_chunks_are_as_large_as_a_kind_of_workers_makes_them() -> None:
    rng = random.Random(3)
    items = tuple(Item(rng.randint(1, 9000), 0, 1, 1.0) for _ in range(100))
    work = Workload(1.0, items)
    for chunk, step_tokens, size in ((512, 8192, 512), (2048, 8192, 2048), (4096, 1024, 1024)):
        exact = sum(
            CURVE.prefill_seconds(item.prompt, 0, size)
            - CURVE.base * math.ceil(item.prompt / size)
            for item in items
        ) / len(items)
        there = Kind(CURVE, BIG, 1024, step_tokens, chunk)
        assert PhaseModel(work, there).work == pytest.approx(exact, rel=1e-6)


def test_what_is_cached_is_not_computed() -> None:
    cold = PhaseModel(Workload(1.0, (Item(4096, 0, 1, 1.0),)), kind())
    warm = PhaseModel(Workload(1.0, (Item(4096, 3584, 1, 1.0),)), kind())
    exact = CURVE.prefill_seconds(4096, 3584, 512)
    assert warm.work + CURVE.base == pytest.approx(exact)
    assert cold.work > 5 * warm.work


def test_short_prompts_share_steps_when_they_wait() -> None:
    """Alone each takes a step; a worker under load reads several in one."""
    work = Workload(1.0, (Item(64, 0, 1, 0.5),))
    model = PhaseModel(work, kind(step_tokens=2048))
    alone = CURVE.prefill_seconds(64, 0, 512)
    assert model.prefill(1, 0.1).ttft == pytest.approx(alone, rel=0.01)
    assert model.prefill_rate > 2.5 / alone
    assert model.prefill(1, 1.5 / alone).attained[0] > 0.95
    assert model.prefill(1, model.prefill_rate * 1.01).attained[0] == 0.0


def test_the_most_urgent_overtake() -> None:
    rushed, patient = Item(512, 0, 1, 0.3), Item(512, 0, 1, 60.0)
    mixed = Workload(1.0, (rushed, patient, patient, patient))
    model = PhaseModel(mixed, kind())
    almost = model.prefill_rate * 0.97
    urgent, background = model.prefill(1, almost).attained
    assert urgent > 0.99
    assert background > 0.99
    alone = PhaseModel(Workload(1.0, (rushed,)), kind()).prefill(1, almost).attained[0]
    assert alone < 0.5


def test_the_batch_is_where_little_says() -> None:
    work = Workload(10.0, (Item(512, 0, 64, math.inf, 0.04),))
    got = PhaseModel(work, kind()).decode(2, 10.0)
    context = work.context
    assert context == pytest.approx(512 + 32)
    step = CURVE.seconds(StepShape(0, 0, 0, 1, 0)) + got.batch * context * CURVE.context
    step += (got.batch - 1) * CURVE.decode
    assert got.itl == pytest.approx(step, rel=0.02)
    assert got.batch * 2 == pytest.approx(10.0 * 63 * got.itl)  # Little
    assert got.attained[0] > 0.999


def test_decode_workers_at_their_ends() -> None:
    work = Workload(1.0, (Item(512, 0, 64, math.inf, 0.04),))
    model = PhaseModel(work, kind())
    limit = model.decode_rate
    assert model.quiet(limit * 63 * 0.04) == pytest.approx(0.04)
    assert model.decode(1, limit * 0.8).attained[0] > 0.95
    assert model.decode(1, limit * 1.2).attained[0] < 0.1
    assert model.decode(1, 1e6).itl == math.inf
    # Memory for 16 sequences: that is what binds then.
    small = PhaseModel(work, kind(tokens=16 * 545))
    assert small.slots == pytest.approx(16, abs=0.1)
    assert small.decode_rate < 0.6 * limit
    assert small.decode(1, small.decode_rate * 1.2).fits < 0.4
    assert small.decode(1, small.decode_rate * 0.4).fits > 0.99


def test_the_batch_swings_as_in_a_simulation() -> None:
    """Tokens of a request come one per step of a batch that others join and leave."""
    rng = random.Random(11)
    work = Workload(1.0, (Item(256, 0, 65, math.inf, 0.05),))
    curve = StepCurve(
        base=0.01, chunk=0.0, token=0.0, pair=0.0, decode=0.001, context=0.0, spread=0.0, steps=0
    )
    model = PhaseModel(work, kind(curve))
    rate = 0.85 * model.decode_rate
    now, following = 0.0, rng.expovariate(rate)
    running: list[list[float]] = []
    means = []
    while len(means) < 6000:
        if not running:
            now = following
        while following <= now:
            running.append([64, now])
            following += rng.expovariate(rate)
        now += model.quiet(len(running))
        for one in running:
            one[0] -= 1
        means += [(now - one[1]) / 64 for one in running if one[0] == 0]
        running = [one for one in running if one[0] > 0]
    got = model.decode(1, rate)
    assert got.itl == pytest.approx(sum(means) / len(means), rel=0.08)
    seen = sum(mean <= 0.05 for mean in means) / len(means)
    assert got.attained[0] == pytest.approx(seen, abs=0.05)


def test_both_at_once_keep_the_inter_token_target_at_the_cost_of_the_first_token() -> None:
    work = Workload(1.0, (Item(2048, 0, 64, 1.0, 0.05),))
    model = PhaseModel(work, kind())
    reading, writing = model.both(1, 1.0, 1.0)
    alone = model.prefill(1, 1.0)
    assert reading.ttft > 1.2 * alone.ttft
    assert writing.attained[0] > 0.99
    assert writing.itl < 0.05
    assert writing.itl > model.decode(1, 1.0).itl
    # More decodes, less of a step for prompts.
    slower, _ = model.both(1, 1.0, 3.0)
    assert slower.ttft > reading.ttft
    # Without prompts they are decode workers, without answers prompts wait for nobody.
    _, only = model.both(2, 0.0, 8.0)
    assert only.batch == pytest.approx(model.decode(2, 8.0).batch, rel=0.01)


def test_a_hand_off_that_nothing_hides_counts() -> None:
    work = Workload(1.0, (Item(512, 0, 11, 1.0, 0.0165),))
    free, dear = PhaseModel(work, kind()), PhaseModel(work, kind(), handoff=0.02)
    assert free.decode(1, 0.5).attained[0] > 0.95
    assert dear.decode(1, 0.5).attained[0] < 0.5
    assert dear.decode(1, 0.5, moved=0.0).attained == free.decode(1, 0.5).attained


def test_a_sample_keeps_what_matters() -> None:
    rng = random.Random(5)
    items = tuple(
        Item(rng.randint(1, 8000), 0, rng.randint(1, 300), 1.0, 0.1) for _ in range(500)
    )
    work = Workload(1.0, items)
    exact = sum(
        CURVE.prefill_seconds(item.prompt, 0, 512)
        - CURVE.base * math.ceil(item.prompt / 512)
        for item in items
    ) / len(items)
    assert PhaseModel(work, kind()).work == pytest.approx(exact, rel=1e-6)
    assert sum(part.weight for group in work.classes for part in group.bins) == pytest.approx(1)
    longer = work.scaled(outputs=2.0, rate=3.0)
    assert longer.rate == 3.0
    assert longer.gaps == pytest.approx(2 * work.gaps, rel=0.01)
    assert work.scaled(rate=2.0).classes is work.classes


def test_burstiness() -> None:
    rng = random.Random(2)
    poisson = [rng.expovariate(3.0) for _ in range(4000)]
    bursts = [rng.expovariate(30.0) if rng.random() < 0.9 else 3.0 for _ in range(4000)]
    assert burstiness(poisson) == pytest.approx(1.0, abs=0.1)
    assert burstiness(bursts) > 3
    assert burstiness([0.1] * 50) == 0.25
    assert burstiness([0.1] * 3) == 1.0
