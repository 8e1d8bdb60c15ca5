"""Requests that wait for a worker, and whose turn it is. Pure: time is passed in.

    lanes         by weight: whoever has had least work for its weight is next (stride scheduling;
                  work is the predicted seconds of prefill of what was sent)
    flows         of a lane, one after the other in the same way, all of one weight
    in a flow     1. what had begun and lost its worker
                  2. by priority; of one priority by due time, and those that cannot make it any
                     more behind those that can
                  A class is passed over at most MAX_PASSED times in a row, so nothing starves.

One that comes back from a failed attempt takes its old place: due time and number are those of its
arrival. All costs are logarithmic in the length of the queue, but for `__iter__`.

    waiting --Round.placed--> gone           a round is one attempt to send what can be sent
       ^ |--Round.blocked--> waiting         no room; smaller ones behind it may pass for a while
       +--pause--> paused (not in its turn until a moment)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf
from typing import Generic

from baton.router.lanes import Lanes
from baton.router.waiting import Entry, Flow, LaneQueue, T, class_key, is_late

MAX_OVERTAKEN = 16
"""Requests that may be sent past one for which there is no room. From then on its lane waits for
it, and so do lanes of no more weight."""
LOOK_BEHIND = 4
"""Requests behind a blocked one that are looked at in one round."""
CREDIT = 0.1
"""Seconds of work per unit of weight that a lane may catch up on when it could not send."""


class WaitingQueue(Generic[T]):
    def __init__(self, lanes: Lanes | None = None) -> None:
        self._lanes: dict[str, LaneQueue[T]] = {
            lane.name: LaneQueue(lane.name, lane.weight) for lane in lanes or Lanes()
        }
        self._entries: dict[int, Entry[T]] = {}
        """By number: all that wait, in their turn or paused."""
        self._paused: list[tuple[float, int]] = []
        self._clock = 0.0
        """Virtual: `used` of the lane that sent last."""
        self._rounds = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item.number in self._entries

    def __iter__(self) -> Iterator[T]:
        """By arrival; what is removed or added meanwhile does not disturb it."""
        return iter([self._entries[number].item for number in sorted(self._entries)])

    def depth(self) -> dict[str, int]:
        """Requests by lane, those that pause included."""
        counts = dict.fromkeys(self._lanes, 0)
        for lane in self._lanes.values():
            for flow in lane.flows.values():
                counts[lane.name] += sum(cls.count for cls in flow.classes.values())
        for _, number in self._paused:
            entry = self._entries.get(number)
            if entry is not None and entry.where is None:
                counts[entry.item.lane] += 1
        return counts

    # -- in and out --------------------------------------------------------------------------

    def add(self, item: T, work: float, now: float) -> None:
        """`work`: predicted seconds of its prefill. Idempotent."""
        if item.number in self._entries:
            return
        self._enter(Entry(item, max(work, 1e-9), self._rounds), now)

    def remove(self, item: T) -> None:
        """Idempotent."""
        entry = self._entries.pop(item.number, None)
        if entry is not None:
            self._leave(entry)

    def pause(self, item: T, until: float) -> None:
        """It is nobody's turn to wait for this one, for it cannot be sent before then."""
        entry = self._entries.get(item.number)
        if entry is not None and entry.where is not None:
            self._leave(entry)
            heapq.heappush(self._paused, (until, item.number))

    def resume(self, now: float, *, everyone: bool = False) -> float | None:
        """Pauses that are over, or all of them, end. Returns when the next one does."""
        while self._paused and (everyone or self._paused[0][0] <= now):
            entry = self._entries.get(heapq.heappop(self._paused)[1])
            if entry is not None and entry.where is None:
                self._enter(entry.again(), now)
        return self._paused[0][0] if self._paused else None

    def round(self, now: float) -> Round[T]:
        """Ends the pauses that are over."""
        self.resume(now)
        self._rounds += 1
        return Round(self, now)

    # -- questions ---------------------------------------------------------------------------

    def work_before(self, item: T, work: float, *, late: bool) -> float:
        """Seconds of prefill that are sent before a request like this one, if nothing else comes:
        of its own flow what is as urgent, of other flows and lanes what their share allows.
        Whether it is in the queue already makes no difference. `late`: it cannot make it."""
        own = self._lanes[item.lane]
        key = class_key(item, late)
        flow = own.flows.get(item.flow)
        ahead = 0.0
        if flow is not None:
            ahead = sum(cls.work for of, cls in flow.classes.items() if of <= key)
        entry = self._entries.get(item.number)
        if entry is not None and entry.where is not None and entry.where.key <= key:
            ahead -= entry.work
        for other in own.flows.values():
            if other is not flow:
                ahead += min(other.work, ahead + work)
        total = max(0.0, ahead)
        for lane in self._lanes.values():
            if lane is not own and lane.flows:
                total += min(lane.work, (ahead + work) * lane.weight / own.weight)
        return total

    def behind(self, item: T) -> tuple[int, float]:
        """(requests of its lane that wait with it and can still make it, seconds of their
        prefills). Whether it is in the queue already makes no difference."""
        lane = self._lanes[item.lane]
        entry = self._entries.get(item.number)
        if entry is None or entry.where is None or entry.where.key[2]:
            return lane.in_time, lane.in_time_work
        return lane.in_time - 1, max(0.0, lane.in_time_work - entry.work)

    def share(self, lane: str) -> float:
        """Of the workers, in (0, 1], while others that wait now wait as well."""
        weights = [
            other.weight for name, other in self._lanes.items() if name == lane or other.flows
        ]
        return self._lanes[lane].weight / sum(weights)

    def waited_for(self, item: T) -> str | None:
        """What has blocked it or its lane since it came; None: nothing."""
        entry = self._entries.get(item.number)
        if entry is None:
            return None
        lane = self._lanes[item.lane]
        return lane.blocked_by if lane.blocked_round > entry.round else None

    def check_integrity(self) -> None:
        """All counts and sums recomputed. Raises AssertionError."""
        in_turn = 0
        for lane in self._lanes.values():
            for flow in lane.flows.values():
                assert any(cls.count for cls in flow.classes.values()), "an idle flow"
                for cls in flow.classes.values():
                    here = [entry for entry in cls.heap if entry.where is cls]
                    assert len(set(map(id, here))) == len(here) == cls.count
                    assert abs(sum(entry.work for entry in here) - cls.work) < 1e-6
                    in_turn += cls.count
            in_time = [
                cls for flow in lane.flows.values() for cls in flow.classes.values()
                if not cls.key[2]
            ]
            assert lane.in_time == sum(cls.count for cls in in_time)
            assert abs(lane.in_time_work - sum(cls.work for cls in in_time)) < 1e-6
        paused = [e for e in self._entries.values() if e.where is None]
        assert in_turn + len(paused) == len(self._entries)
        assert {e.item.number for e in paused} <= {number for _, number in self._paused}

    # -- inside ------------------------------------------------------------------------------

    def _enter(self, entry: Entry[T], now: float) -> None:
        """A new one."""
        self._entries[entry.item.number] = entry
        lane = self._lanes[entry.item.lane]
        if not lane.flows:  # what it did not use while it had nothing to send is gone
            lane.used = max(lane.used, self._clock)
        flow = lane.flows.get(entry.item.flow)
        if flow is None:
            flow = lane.flows[entry.item.flow] = Flow(lane, entry.item.flow)
            used = [other.used for other in lane.flows.values() if other is not flow]
            flow.used = min(used, default=0.0)
        late = is_late(entry, now)
        item = entry.item
        if late or item.begun:
            entry.key = (float(item.number), 0)
        else:
            entry.key = (inf if item.due is None else item.due, item.number)
        flow.of(class_key(item, late)).add(entry)

    def _leave(self, entry: Entry[T]) -> None:
        cls = entry.where
        if cls is not None:
            cls.drop(entry)
            if cls.flow.idle:
                cls.flow.lane.flows.pop(cls.flow.name, None)

    def _sent(self, entry: Entry[T], work: float) -> None:
        cls = entry.where
        assert cls is not None, "only what is in its turn is sent"
        flow, lane = cls.flow, cls.flow.lane
        self._clock = max(self._clock, lane.used)
        lane.used += work / lane.weight
        flow.used += work
        flow.sent(cls)
        self.remove(entry.item)


class Round(Generic[T]):
    """One walk over those whose turn it is. `next` names one to try, and the caller says what
    became of it: `placed`, `blocked`, or it has paused or removed it."""

    def __init__(self, queue: WaitingQueue[T], now: float) -> None:
        self._queue = queue
        self._now = now
        self._aside: dict[str, list[Entry[T]]] = {}
        """By lane: those that there is no room for."""
        self._closed: set[str] = set()
        """Lanes in which nothing more is tried."""
        self._urgent: set[str] = set()
        """Lanes in which one waits that can still make it: those that cannot do not overtake it."""
        self._most: dict[str, float] = {}
        """By lane: tokens that a request may have if it is tried behind one that was blocked."""

    def next(self) -> T | None:
        """None: the round is over (and everything is in its place again)."""
        lanes = [
            lane for lane in self._queue._lanes.values()
            if lane.flows and lane.name not in self._closed
        ]
        for lane in sorted(lanes, key=lambda lane: lane.used):
            entry = self._of(lane)
            if entry is not None:
                return entry.item
            self._closed.add(lane.name)
        self.end()
        return None

    def placed(self, item: T, work: float | None = None) -> None:
        """It was sent, and took so many seconds of prefill (None: as was thought)."""
        entry = self._queue._entries[item.number]
        own = self._queue._lanes[item.lane]
        for name, passed in self._aside.items():
            for other in passed:
                other.overtaken += 1
            lane = self._queue._lanes[name]
            if lane is not own:
                # It keeps its claim, up to a bound: else it would have the workers to itself
                # for long once there is room.
                lane.used = max(lane.used, own.used - CREDIT)
        self._queue._sent(entry, entry.work if work is None else work)

    def blocked(self, item: T, why: str, behind: str = "smaller") -> None:
        """It cannot be sent now. `behind`: which of those behind it in its lane may be all the
        same: "none", "smaller" (there is no room), or "any" (it is about this one)."""
        lane = self._queue._lanes[item.lane]
        aside = self._aside.setdefault(lane.name, [])
        entry = self._queue._entries[item.number]
        patient = entry.overtaken < MAX_OVERTAKEN
        if not aside:
            lane.blocked_round, lane.blocked_by = self._queue._rounds, why
            if not patient and behind != "any":
                self._hold_the_door(lane)
        if entry.where is not None and not entry.where.key[2]:
            self._urgent.add(lane.name)
        if behind == "smaller":
            self._most[lane.name] = min(self._most.get(lane.name, inf), item.num_tokens // 2)
        self._put_aside(lane, entry)
        if behind == "none" or not patient or len(aside) >= LOOK_BEHIND:
            self._closed.add(lane.name)

    def end(self) -> None:
        """Everything is in its place again. Idempotent."""
        for name, aside in self._aside.items():
            lane = self._queue._lanes[name]
            for entry in aside:
                if self._queue._entries.get(entry.item.number) is entry and entry.where is None:
                    self._queue._enter(entry.again(), self._now)
            for flow in [flow for flow in lane.flows.values() if flow.idle]:
                del lane.flows[flow.name]
        self._aside.clear()

    def _of(self, lane: LaneQueue[T]) -> Entry[T] | None:
        """The next to try in a lane: behind one that was blocked only what is much smaller."""
        while True:
            heads = [
                (flow.used, entry)
                for flow in lane.flows.values()
                if (entry := flow.head(self._now)) is not None
            ]
            if not heads:
                return None
            entry = min(heads, key=lambda head: head[0])[1]
            if lane.name in self._urgent and entry.where is not None and entry.where.key[2]:
                return None
            if entry.item.num_tokens <= self._most.get(lane.name, inf):
                return entry
            if len(self._aside[lane.name]) >= LOOK_BEHIND:
                return None
            self._put_aside(lane, entry)

    def _put_aside(self, lane: LaneQueue[T], entry: Entry[T]) -> None:
        """Its flow stays, even if it has nothing else."""
        assert entry.where is not None, "only what is in its turn is tried"
        entry.where.drop(entry)
        self._aside[lane.name].append(entry)

    def _hold_the_door(self, lane: LaneQueue[T]) -> None:
        self._closed.update(
            other.name for other in self._queue._lanes.values() if other.weight <= lane.weight
        )
