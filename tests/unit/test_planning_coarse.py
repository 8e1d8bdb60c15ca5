"""Quick plans of long prompts count KV in larger blocks, and serve the same by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned import kind

from baton.bench.planning.coarse import coarser
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import parse_layout
from baton.bench.planning.loads import Stated
from baton.bench.planning.processes import EFFORTS
from baton.bench.planning.run import RunFigures, Span, run_load
from baton.bench.planning.wishes import Wishes
from baton.bench.workloads.lengths import Lengths
from baton.router.planner.workload import Item, Workload

WISHES = Wishes(ttft=1.0, itl=0.5)
RATES = {"2m": 8.0, "2p+1d": 11.0}
LONG = Lengths(prompt=4096, output=20, spread=0.3, output_spread=0.3, shared=0.5)


def of(prompt: int) -> Workload:
    return Workload(1.0, (Item(prompt, 0, 20, 2.0, 0.5),))


@pytest.mark.parametrize(("prompt", "size"), [(225, 16), (1023, 16), (1024, 32), (4096, 128),
                                              (100_000, 128)])
def test_blocks_stay_small_beside_a_prompt(prompt: int, size: int) -> None:
    (made,), told = coarser([kind()], of(prompt), WISHES)
    machine, was = made.machine, kind().machine
    assert machine.layout.block_size == size
    assert machine.num_blocks * size == was.num_blocks * 16
    assert (told is None) == (size == 16)
    assert size == 16 or f"KV blocks of {size} tokens" in str(told)


def test_and_beside_what_a_step_reads() -> None:
    """Half of 60 ms leaves 22 ms for prompts, 220 tokens, of the slowest kind."""
    hasty = replace(WISHES, itl=0.06)
    found, _ = coarser([kind(speed=4.0), kind()], of(4096), hasty)
    assert {each.machine.layout.block_size for each in found} == {32}
    assert coarser([kind()], of(4096), replace(WISHES, itl=0.01))[1] is None


def test_only_quick_plans_are_coarse() -> None:
    assert [name for name, effort in EFFORTS.items() if effort.coarse] == ["quick"]


@pytest.mark.parametrize("text", ["2m", "2p+1d"])
def test_what_is_served_hardly_changes(text: str) -> None:
    load = Stated(LONG)

    def run(kinds: tuple[WorkerKind, ...]) -> RunFigures:
        return run_load(parse_layout(text, kinds), kinds, load, WISHES, rate=RATES[text],
                        span=Span(5.0, 30.0, 2.0), seed=1)

    fine = run((kind(),))
    coarse = run(coarser([kind()], load.sample(WISHES.targets), WISHES)[0])
    assert fine.requests == coarse.requests > 100
    assert 0.5 < fine.attainment < 1.0, "or it would show nothing"
    assert coarse.attainment == pytest.approx(fine.attainment, abs=0.03)
    assert coarse.hit_rate == pytest.approx(fine.hit_rate, abs=0.03)
    for what in ("ttft", "itl"):
        mine, theirs = (sorted(getattr(seen, what)) for seen in (coarse, fine))
        assert sum(mine) == pytest.approx(sum(theirs), rel=0.1), what
