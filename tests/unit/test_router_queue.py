"""The order of what waits: shares of lanes and flows, due times, nothing starves, old places."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from baton.router.lanes import DEFAULT_LANES, Lane, Lanes
from baton.router.queue import LOOK_BEHIND, MAX_OVERTAKEN, WaitingQueue
from baton.router.waiting import MAX_PASSED


@dataclass(frozen=True)
class Item:
    number: int
    lane: str = "interactive"
    flow: str = ""
    priority: int = 0
    due: float | None = None
    begun: bool = False
    num_tokens: int = 100
    work: float = 1.0


Queue = WaitingQueue[Item]


def filled(*items: Item, now: float = 0.0, lanes: Lanes | None = None) -> Queue:
    queue = Queue(lanes)
    for item in items:
        queue.add(item, item.work, now)
    return queue


def send(
    queue: Queue, now: float = 0.0, most: int = 1 << 30,
    fits: Callable[[Item], bool] = lambda item: True,
) -> list[Item]:
    """What is sent when `fits` says for what there is room."""
    sent: list[Item] = []
    turn = queue.round(now)
    while len(sent) < most:
        item = turn.next()
        if item is None:
            break
        if fits(item):
            turn.placed(item)
            sent.append(item)
        else:
            turn.blocked(item, "busy")
    turn.end()
    queue.check_integrity()
    return sent


def numbers(items: list[Item]) -> list[int]:
    return [item.number for item in items]


# -- within a lane ---------------------------------------------------------------------------


def test_by_due_time_and_the_late_ones_after_those_that_can_make_it() -> None:
    queue = filled(
        Item(0, due=9.0), Item(1, due=5.0), Item(2, due=1.5, work=2.0), Item(3, due=7.0), Item(4)
    )
    assert numbers(send(queue)) == [1, 3, 0, 4, 2]


def test_one_becomes_late_while_it_waits() -> None:
    queue = filled(Item(0, due=2.0), Item(1, due=8.0), Item(2, due=3.5), Item(3, due=4.5))
    assert numbers(send(queue, now=3.0)) == [3, 1, 0, 2]


def test_higher_priority_goes_first_even_when_it_is_late() -> None:
    queue = filled(Item(0, due=9.0), Item(1, due=0.5, priority=1), Item(2, due=8.0, priority=1))
    assert numbers(send(queue)) == [2, 1, 0]


def test_what_had_begun_goes_before_all_of_its_lane_by_arrival() -> None:
    queue = filled(
        Item(0, due=9.0, priority=5), Item(7, due=0.1, begun=True), Item(3, begun=True), Item(1)
    )
    assert numbers(send(queue)) == [3, 7, 0, 1]


def test_one_that_comes_back_has_its_old_place() -> None:
    items = [Item(n, due=100.0 + n) for n in range(6)]
    queue = filled(*items)
    assert numbers(send(queue, most=2)) == [0, 1]
    queue.add(items[1], 1.0, 5.0)
    assert numbers(send(queue, now=5.0)) == [1, 2, 3, 4, 5]


def test_late_ones_and_low_priorities_do_not_starve() -> None:
    queue = filled(Item(0, due=0.5), Item(1, due=900.0, priority=-1))
    order: list[int] = []
    for n in range(2, 2 + 3 * MAX_PASSED):
        queue.add(Item(n, due=1000.0), 1.0, 1.0)
        order += numbers(send(queue, now=1.0, most=1))
    assert order.index(0) == MAX_PASSED
    assert order.index(1) <= 2 * MAX_PASSED + 1


# -- between lanes and flows -----------------------------------------------------------------


def shares(sent: list[Item], of: Callable[[Item], str] = lambda item: item.lane) -> Counter[str]:
    done: Counter[str] = Counter()
    for item in sent:
        done[of(item)] += item.work  # type: ignore[assignment]
    return done


@pytest.mark.parametrize("seed", range(20))
def test_lanes_get_work_by_their_weights(seed: int) -> None:
    rand = random.Random(seed)
    lanes = Lanes([
        replace(DEFAULT_LANES[0], weight=rand.choice([1, 3, 10])),
        *(Lane(f"l{n}", 1.0, 1.0, 10.0, rand.uniform(0.5, 5)) for n in range(rand.randint(1, 4))),
    ])
    weights = {lane.name: lane.weight for lane in lanes}
    biggest = 2.0
    queue = Queue(lanes)
    for n in range(3000):
        item = Item(n, rand.choice(list(weights)), work=rand.uniform(0.01, biggest))
        queue.add(item, item.work, 0.0)
    done: Counter[str] = Counter()
    while all(lane in {e.lane for e in queue} for lane in weights) and len(queue) > 1500:
        for item in send(queue, most=50):
            done[item.lane] += item.work  # type: ignore[assignment]
        for one in weights:
            for other in weights:
                apart = done[one] / weights[one] - done[other] / weights[other]
                assert abs(apart) <= biggest / weights[one] + biggest / weights[other] + 1e-6
    assert done.total() > 100


def test_a_flood_of_batch_moves_interactive_by_no_more_than_its_weight() -> None:
    """With a thousand requests of the batch lane before it, an interactive one waits for at most
    a tenth of the interactive work ahead of it, and one request."""
    queue = filled(*(Item(n, "batch", work=0.5) for n in range(1000)))
    send(queue, most=20)  # it had the workers to itself for a while
    for n in range(1000, 1100):
        queue.add(Item(n, work=0.5), 0.5, 0.0)
    ahead = 0.0
    sent = send(queue, most=80)
    for place, item in enumerate(sent):
        if item.lane == "batch":
            ahead += item.work
        else:
            own = (place + 1) * 0.5 - ahead
            assert ahead <= own / 10 + 0.5 + 1e-9
    assert ahead > 0


def test_no_claim_is_kept_from_when_there_was_nothing_to_send() -> None:
    queue = filled(*(Item(n, work=1.0) for n in range(50)))
    send(queue, most=40)
    for n in range(100, 200):
        queue.add(Item(n, "batch"), 1.0, 0.0)
    assert sum(item.lane == "batch" for item in send(queue, most=5)) <= 1


def test_flows_of_a_lane_take_turns_whatever_they_have_queued() -> None:
    queue = filled(*(Item(n, flow="flood", work=0.5) for n in range(500)))
    send(queue, most=50)
    for n in range(1000, 1040):
        queue.add(Item(n, flow="other", work=0.5), 0.5, 0.0)
    done = shares(send(queue, most=40), lambda item: item.flow)
    assert abs(done["flood"] - done["other"]) <= 1.0


# -- when there is no room -------------------------------------------------------------------


def test_a_blocked_lane_does_not_block_the_others() -> None:
    queue = filled(Item(0, num_tokens=900), Item(1, num_tokens=800), Item(2, "batch"))
    sent = send(queue, fits=lambda item: item.lane == "batch")
    assert numbers(sent) == [2]
    assert numbers(list(queue)) == [0, 1]
    assert (queue.waited_for(Item(0)), queue.waited_for(Item(2))) == ("busy", None)


def test_small_ones_overtake_a_large_one_for_which_there_is_no_room_but_not_for_ever() -> None:
    queue = filled(Item(0, num_tokens=1000))
    sent: list[int] = []
    for n in range(1, 100):
        queue.add(Item(n), 1.0, 0.0)
        sent += numbers(send(queue, fits=lambda item: item.num_tokens < 500))
    assert sent == list(range(1, MAX_OVERTAKEN + 1))
    assert numbers(send(queue, most=2)) == [0, MAX_OVERTAKEN + 1]


def test_lanes_of_no_more_weight_do_not_overtake_it_for_ever_either() -> None:
    queue = filled(Item(0, num_tokens=1000))
    sent: list[int] = []
    for n in range(1, 100):
        queue.add(Item(n, "batch"), 1.0, 0.0)
        sent += numbers(send(queue, fits=lambda item: item.num_tokens < 500))
    assert len(sent) == MAX_OVERTAKEN


def test_a_batch_request_without_room_never_stops_interactive_ones() -> None:
    queue = filled(Item(0, "batch", num_tokens=1000))
    sent: list[int] = []
    for n in range(1, 100):
        queue.add(Item(n), 1.0, 0.0)
        sent += numbers(send(queue, fits=lambda item: item.num_tokens < 500))
    assert sent == list(range(1, 100))
    # And it has kept its claim only up to a bound, so it does not take over now.
    for n in range(100, 150):
        queue.add(Item(n, "batch", work=0.5), 0.5, 0.0)
        queue.add(Item(n + 100, work=0.5), 0.5, 0.0)
    assert sum(item.lane == "batch" for item in send(queue, most=20)) <= 4


def test_only_a_few_are_looked_at_in_a_round() -> None:
    queue = filled(*(Item(n, num_tokens=1 << max(0, 20 - n)) for n in range(500)))
    tried: list[Item] = []
    send(queue, fits=lambda item: bool(tried.append(item)))
    assert len(tried) == LOOK_BEHIND


def test_paused_ones_are_nobodys_hindrance() -> None:
    queue = filled(Item(0), Item(1), Item(2))
    queue.pause(Item(0), until=5.0)
    assert queue.depth() == {"interactive": 3, "batch": 0}
    assert numbers(send(queue, now=1.0, most=1)) == [1]
    assert queue.resume(4.9) == 5.0
    assert numbers(send(queue, now=5.0)) == [0, 2]
    queue.add(Item(3), 1.0, 6.0)
    queue.pause(Item(3), until=99.0)
    queue.remove(Item(3))
    assert (len(queue), queue.resume(7.0, everyone=True)) == (0, None)
    queue.check_integrity()


# -- what is said of the wait ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_work_before_one_is_what_is_sent_before_it(seed: int) -> None:
    rand = random.Random(seed)
    queue = Queue()
    for n in range(400):
        lane = rand.choice(["interactive"] * 3 + ["batch"])
        item = Item(n, lane, due=1e6 + n, work=rand.uniform(0.1, 0.5))
        queue.add(item, item.work, 0.0)
    new = Item(400, rand.choice(["interactive", "batch"]), due=1e6 + 400, work=0.3)
    thought = queue.work_before(new, 0.3, late=False)
    queue.add(new, 0.3, 0.0)
    assert queue.work_before(new, 0.3, late=False) == pytest.approx(thought)
    sent = send(queue)
    seen = sum(item.work for item in sent[: sent.index(new)])
    assert abs(seen - thought) <= 0.5 * 12  # one request of each lane, times the weights


def test_late_ones_wait_for_those_that_can_make_it() -> None:
    queue = filled(Item(0, due=50.0, work=2.0), Item(1, due=0.1, work=4.0), Item(2, priority=1))
    new = Item(3, due=60.0)
    assert queue.work_before(new, 1.0, late=False) == pytest.approx(3.0)
    assert queue.work_before(new, 1.0, late=True) == pytest.approx(7.0)
    assert queue.work_before(replace(new, priority=1), 1.0, late=False) == pytest.approx(1.0)


# -- at random -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_of_events_keeps_all_and_starves_none(seed: int) -> None:
    """Random arrivals, rooms, pauses, retries and removals; then, with room for all, everything
    leaves once, and nothing has been lost."""
    rand = random.Random(seed)
    queue = Queue()
    inside: dict[int, Item] = {}
    sent: list[Item] = []
    now = 0.0
    for n in range(300):
        now += rand.expovariate(5.0)
        item = Item(
            n, rand.choice(["interactive", "batch"]), rand.choice(["", "a", "b"]),
            rand.choice([0, 0, 0, 1]), rand.choice([None, now + rand.uniform(0, 3)]),
            rand.random() < 0.1, rand.choice([10, 100, 1000]), rand.uniform(0.01, 1),
        )
        queue.add(item, item.work, now)
        inside[n] = item
        event = rand.random()
        if event < 0.15:
            gone = rand.choice(list(inside.values()))
            queue.remove(gone)
            del inside[gone.number]
        elif event < 0.3:
            queue.pause(rand.choice(list(inside.values())), now + rand.uniform(0, 2))
        elif event < 0.4 and sent:
            back = sent.pop(rand.randrange(len(sent)))
            queue.add(back, back.work, now)
            inside[back.number] = back
        room = rand.choice([0, 50, 500, 5000])
        out = send(queue, now, rand.randint(0, 3), lambda item, room=room: item.num_tokens <= room)
        for item in out:
            del inside[item.number]
        sent += out
        assert len(queue) == len(inside)
    queue.resume(now, everyone=True)
    left = send(queue, now)
    assert sorted(numbers(left)) == sorted(inside)
    assert len(queue) == 0
    assert queue.depth() == {"interactive": 0, "batch": 0}


def test_who_waits_behind_is_of_the_same_lane_and_can_still_make_it() -> None:
    first = Item(1, due=5.0)
    queue = filled(first, Item(2, due=5.0, work=2.0), Item(3, due=5.0), Item(4, lane="batch"))
    assert queue.behind(first) == (2, 3.0)
    assert queue.behind(Item(9)) == (3, 4.0)
    assert queue.behind(Item(9, lane="batch")) == (1, 1.0)
    late = Item(5, due=0.5)
    queue.add(late, 1.0, 0.0)
    assert queue.behind(first) == (2, 3.0)
    assert queue.behind(late) == (3, 4.0)
    assert numbers(send(queue, most=1)) == [1]
    assert queue.behind(first) == (2, 3.0)
    assert send(queue, now=3.5, fits=lambda item: False) == []
    assert queue.behind(Item(9)) == (1, 1.0)  # the second cannot make it any more
    queue.check_integrity()
