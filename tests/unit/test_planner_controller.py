"""The controller of the pools on a cluster in simulated time, and piece by piece."""

from __future__ import annotations

import math

import msgspec
import pytest
from toy_cluster import KIND, Outcome, ToyCluster

from baton.router.planner.controller import Cluster, Controller
from baton.router.planner.moves import Move, MoveCost, WorkerState, choose, groups_of, split_of
from baton.router.planner.phases import Kind
from baton.router.planner.relief import Relief
from baton.router.planner.split import Split
from baton.router.planner.workload import Item, Workload

READING = (17.0, 2500.0, 60.0)
"""Requests per second, mean prompt, mean output: nine tenths of what 6 + 2 workers carry."""
WRITING = (38.0, 600.0, 200.0)
"""The same of 3 + 5."""


def roles(prefill: int, decode: int, mixed: int = 0) -> list[str]:
    return ["prefill"] * prefill + ["decode"] * decode + ["mixed"] * mixed


def moved(outcome: Outcome, start: float, end: float) -> list[float]:
    return [at - start for at, _, _ in outcome.moves if start <= at < end]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_steady_load_moves_nothing_however_noisy(seed: int) -> None:
    for split, load in (((6, 2), READING), ((3, 5), WRITING)):
        outcome = ToyCluster(roles(*split), seed=seed).run(90.0, *load, sigma=0.8)
        assert not outcome.moves
        assert outcome.attained(0.0, 60.0) > 0.9


@pytest.mark.parametrize("seed", [2, 3])
def test_a_shift_is_settled_in_time_with_few_moves_and_pays(seed: int) -> None:
    cluster = ToyCluster(roles(6, 2), seed=seed)
    still = ToyCluster(roles(6, 2), seed=seed)
    still.moving = False
    for each in (cluster, still):
        each.run(60.0, *READING)
        each.run(100.0, *WRITING)
    moves = moved(cluster.outcome, 60.0, 160.0)
    assert 1 <= len(moves) <= 3
    assert max(moves) <= 15.0
    assert not moved(cluster.outcome, 0.0, 60.0)
    assert cluster.outcome.attained(90.0, 140.0) > 0.95
    assert still.outcome.attained(90.0, 140.0) < 0.6
    # And back.
    cluster.run(100.0, *READING)
    moves = moved(cluster.outcome, 160.0, 260.0)
    assert 1 <= len(moves) <= 3
    assert max(moves) <= 15.0
    assert cluster.outcome.attained(200.0, 240.0) > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_a_load_that_begins_finds_its_split_within_seconds(seed: int) -> None:
    """Roles are as somebody left them; nobody waits for the next interval."""
    cluster = ToyCluster(roles(4, 4), seed=seed)
    cluster.run(60.0, *READING)
    moves = moved(cluster.outcome, 0.0, 60.0)
    assert 1 <= len(moves) <= 3
    assert max(moves) <= 8.0
    assert cluster.outcome.attained(15.0, 50.0) > 0.9


def test_many_workers_may_change_in_proportion() -> None:
    cluster = ToyCluster(roles(8, 24), seed=1)
    reading = (4 * READING[0], *READING[1:])
    cluster.run(30.0, *reading)
    assert 6 < len(cluster.outcome.moves) <= 12


def test_what_the_curves_did_not_foresee_is_relieved() -> None:
    """They say that prompts are read five times as fast as they are."""
    cluster = ToyCluster(roles(1, 7), seed=5, patience=60.0)
    lies = msgspec.structs.replace(KIND.curve, token=KIND.curve.token / 5, pair=0.0)

    def look() -> Cluster:
        seen = ToyCluster.look(cluster)
        return seen._replace(
            workers=tuple(w._replace(kind=KIND._replace(curve=lies)) for w in seen.workers)
        )

    cluster.controller = Controller(look)
    cluster.run(60.0, 6.0, 2500.0, 60.0)
    triggers = {trigger for _, _, trigger in cluster.outcome.moves}
    assert triggers == {"starvation"}
    assert all(move.role == "mixed" for _, move, _ in cluster.outcome.moves)
    assert len(cluster.queue) < 10


def test_steps_that_take_what_targets_allow_are_no_time_that_is_left() -> None:
    """A hundred answers may leave most of a worker's slots free, and none of its time."""
    answers = Workload(10.0, (Item(300, 0, 200, 1.5, 0.03),))
    most = (0.03 - KIND.curve.base) / (
        KIND.curve.decode + KIND.curve.context * answers.context
    )
    assert most < 0.9 * KIND.max_running
    for share, helps in ((0.8, False), (0.4, True)):
        relief = Relief()
        pool = [
            worker("a", "prefill", backlog=9.0),
            worker("b", "decode", decoding=int(share * most)),
        ]
        assert not relief.starving(pool, 50, 0.0)
        assert relief.starving(pool, 50, 4.0)
        assert (relief.move(pool, answers) is not None) is helps


def worker(name: str, role: str, **more: object) -> WorkerState:
    return WorkerState(name, role, KIND)._replace(**more)


def controller_for(*workers: WorkerState, queued: int = 0) -> Controller:
    return Controller(lambda: Cluster(workers, queued))


def test_two_workers_stop_disaggregating_when_it_does_not_pay() -> None:
    cluster = ToyCluster(roles(1, 1), seed=1, ttft=1.5, itl=0.3)
    cluster.run(40.0, 15.0, 500.0, 200.0)
    assert {w.role for w in cluster.workers} <= {"mixed", "decode"}
    assert any(w.role == "mixed" for w in cluster.workers)
    assert any("does not pay" in entry.reason for entry in cluster.controller.log)


def test_when_nobody_is_left_for_a_phase_one_does_both_at_once() -> None:
    left = controller_for(worker("a", "prefill"), worker("b", "prefill"))
    moves = left.tick(0.0)
    assert [move.role for move in moves] == ["mixed"]
    assert left.log[-1].chosen == Split(1, 0, 1)


def test_a_pinned_one_does_not_keep_the_others_from_helping() -> None:
    left = controller_for(worker("a", "decode", pinned=True), worker("b", "decode"))
    assert left.tick(0.0) == [Move("b", "mixed", "decode")]


def test_pinned_workers_keep_their_role() -> None:
    workers = [worker("a", "decode", pinned=True), worker("b", "decode", decoding=9)]
    assert choose(workers, Split(1, 1, 0)) == [Move("b", "prefill", "decode")]
    assert choose(workers, Split(2, 0, 0)) is None
    stuck = controller_for(worker("a", "prefill", pinned=True))
    assert stuck.tick(0.0) == []


def test_who_is_disturbed_least_moves() -> None:
    workers = [
        worker("a", "decode", decoding=9), worker("b", "decode", decoding=2),
        worker("c", "prefill", backlog=3.0), worker("d", "prefill", backlog=0.1),
    ]
    assert choose(workers, Split(3, 1, 0)) == [Move("b", "prefill", "decode")]
    assert choose(workers, Split(1, 3, 0)) == [Move("d", "decode", "prefill")]
    assert choose(workers, Split(2, 2, 0)) == []
    assert split_of(workers) == Split(2, 2, 0)


def test_before_a_move_was_measured_it_is_thought_to_last_as_an_answer() -> None:
    cost = MoveCost()
    assert (cost.of(2.0), cost.of(0.1), cost.of(900.0)) == (2.0, 0.5, 10.0)
    assert cost.of(math.inf) == 5.0
    cost.ordered(Move("a", "prefill", "decode"), 10.0)
    cost.watch([worker("a", "prefill")], 13.0)
    assert cost.of(2.0) == pytest.approx(3.0)


def test_the_cost_of_a_move_is_how_long_old_work_stays() -> None:
    cost = MoveCost()
    guess = cost.seconds
    cost.ordered(Move("a", "prefill", "decode"), 10.0)
    cost.watch([worker("a", "decode", decoding=4)], 10.1)
    cost.watch([worker("a", "prefill", decoding=4)], 11.0)
    assert cost.under_way == 1
    assert cost.seconds == guess
    cost.watch([worker("a", "prefill")], 22.0)
    assert cost.under_way == 0
    assert cost.seconds == pytest.approx(12.0)
    cost.ordered(Move("a", "mixed", "prefill"), 30.0)
    cost.watch([worker("a", "mixed", decoding=3)], 30.2)
    assert 0.5 <= cost.seconds < 12.0
    measured = cost.seconds
    # Who is given such work again, beside its new role, tells nothing; nor does it wait for ever.
    cost.ordered(Move("b", "prefill", "decode"), 35.0)
    for at, decoding in ((36.0, 4), (37.0, 3)):
        cost.watch([worker("b", "prefill", decoding=decoding)], at)
    assert cost.under_way == 1
    cost.watch([worker("b", "prefill", decoding=5)], 38.0)
    assert (cost.under_way, cost.seconds) == (0, measured)
    cost.ordered(Move("gone", "mixed", "prefill"), 40.0)
    cost.watch([], 41.0)
    assert cost.under_way == 0


def test_dear_moves_are_not_made_for_little() -> None:
    """The same load and split, whatever a move costs; only where it is cheap does it pay."""

    def run(seconds: float) -> list[object]:
        cluster = ToyCluster(roles(5, 3), seed=4)
        cluster.controller.cost.seconds = seconds
        cluster.controller.cost.measured = 1
        cluster.moving = False
        return list(cluster.run(45.0, *READING).moves)

    assert run(1.0)
    assert not run(400.0)


def test_targets_that_nobody_can_keep_are_said_to_be_so() -> None:
    """A step without anything in it takes longer than what is wanted between tokens."""
    cluster = ToyCluster(roles(1, 1), seed=1, itl=KIND.curve.base / 2)
    cluster.run(25.0, 2.0, 200.0, 20.0)
    assert not cluster.outcome.moves
    assert cluster.controller.last is not None
    assert "keeps the inter-token target" in cluster.controller.last.reason


def test_machines_of_a_kind_are_alike() -> None:
    nearly = Kind(KIND.curve.scaled(1.1), KIND.kv_tokens, KIND.max_running)
    other = Kind(KIND.curve.scaled(2.0), KIND.kv_tokens, KIND.max_running)
    groups = groups_of([
        worker("a", "mixed"), worker("b", "mixed", kind=other), worker("c", "mixed", kind=nearly)
    ])
    assert [group.size for group in groups] == [2, 1]


def test_decisions_that_say_the_same_are_logged_once() -> None:
    quiet = controller_for(worker("a", "prefill"), worker("b", "decode"))
    for second in range(100):
        assert quiet.tick(float(second)) == []
    assert len(quiet.log) == 1
    assert quiet.last is not None
    assert quiet.last.as_json(100.0)["reason"] == "too few requests to tell"
    assert quiet.last.at >= 89.0
