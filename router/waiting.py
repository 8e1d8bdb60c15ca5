"""The order within one lane: flows, and in each the classes of what waits. Pure.

`queue.py` puts lanes together and says whose turn it is; here is where an entry stands.
"""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar

MAX_PASSED = 16
"""Times in a row that a class of a flow is passed over by a more urgent one."""

_BEGUN, _ORDINARY = 0, 1


class Waiting(Protocol):
    """What the queue knows of a request."""

    @property
    def number(self) -> int:
        """Order of arrival, one of its own for each."""
        ...

    @property
    def lane(self) -> str: ...

    @property
    def flow(self) -> str: ...

    @property
    def priority(self) -> int:
        """More is sooner."""
        ...

    @property
    def due(self) -> float | None:
        """When its first token should be there; None: no target."""
        ...

    @property
    def begun(self) -> bool:
        """It ran, and what was computed of it is lost."""
        ...

    @property
    def num_tokens(self) -> int: ...


T = TypeVar("T", bound=Waiting)

ClassKey = tuple[int, int, bool]
"""Begun, priority, late: in order of urgency."""


class Entry(Generic[T]):
    __slots__ = ("item", "key", "overtaken", "round", "where", "work")

    def __init__(self, item: T, work: float, round_: int) -> None:
        self.item = item
        self.work = work
        self.overtaken = 0
        self.round = round_
        """The round after which it came."""
        self.where: Class[T] | None = None
        """None: not in its turn. It does not come back after that, but as another entry, for what
        is left of this one in a heap."""
        self.key: tuple[float, int] = (0.0, 0)

    def again(self) -> Entry[T]:
        """To be put in its turn anew."""
        entry = Entry(self.item, self.work, self.round)
        entry.overtaken = self.overtaken
        return entry

    def __lt__(self, other: Entry[T]) -> bool:
        return self.key < other.key


class Class(Generic[T]):
    """Of one flow: entries of the same urgency, in their order."""

    __slots__ = ("count", "flow", "heap", "key", "passed", "work")

    def __init__(self, flow: Flow[T], key: ClassKey) -> None:
        self.flow = flow
        self.key = key
        self.heap: list[Entry[T]] = []
        """Some of these may have left since (their `where` says so)."""
        self.count = 0
        self.work = 0.0
        self.passed = 0

    def add(self, entry: Entry[T]) -> None:
        entry.where = self
        self.count += 1
        self.work += entry.work
        if not self.key[2]:
            self.flow.lane.in_time += 1
            self.flow.lane.in_time_work += entry.work
        heapq.heappush(self.heap, entry)

    def head(self) -> Entry[T] | None:
        while self.heap and self.heap[0].where is not self:
            heapq.heappop(self.heap)
        return self.heap[0] if self.heap else None

    def drop(self, entry: Entry[T]) -> None:
        """It is not in its turn any more. What is left of it in the heap is found later, or
        swept when it is more than half."""
        entry.where = None
        self.count -= 1
        self.work = self.work - entry.work if self.count else 0.0
        if not self.key[2]:
            lane = self.flow.lane
            lane.in_time -= 1
            lane.in_time_work = lane.in_time_work - entry.work if lane.in_time else 0.0
        if len(self.heap) > 2 * self.count + 16:
            self.heap = [left for left in self.heap if left.where is self]
            heapq.heapify(self.heap)


class Flow(Generic[T]):
    __slots__ = ("classes", "lane", "name", "used")

    def __init__(self, lane: LaneQueue[T], name: str) -> None:
        self.lane = lane
        self.name = name
        self.used = 0.0
        self.classes: dict[ClassKey, Class[T]] = {}

    @property
    def work(self) -> float:
        return sum(cls.work for cls in self.classes.values())

    def of(self, key: ClassKey) -> Class[T]:
        found = self.classes.get(key)
        if found is None:
            found = self.classes[key] = Class(self, key)
            self.classes = dict(sorted(self.classes.items()))
        return found

    def head(self, now: float) -> Entry[T] | None:
        """Whose turn it is in this flow."""
        for cls in list(self.classes.values()):
            while not cls.key[2] and (entry := cls.head()) is not None and is_late(entry, now):
                heapq.heappop(cls.heap)
                cls.drop(entry)
                entry.key = (float(entry.item.number), 0)
                self.of((cls.key[0], cls.key[1], True)).add(entry)
        first: Entry[T] | None = None
        for cls in self.classes.values():
            entry = cls.head()
            if entry is not None and (first is None or cls.passed >= MAX_PASSED):
                if first is not None:
                    return entry
                first = entry
        return first

    def sent(self, of: Class[T]) -> None:
        """Which classes were passed over by this."""
        behind = False
        for cls in self.classes.values():
            if cls is of:
                cls.passed, behind = 0, True
            elif behind and cls.count:
                cls.passed += 1

    @property
    def idle(self) -> bool:
        return not any(cls.count for cls in self.classes.values())


class LaneQueue(Generic[T]):
    __slots__ = (
        "blocked_by", "blocked_round", "flows", "in_time", "in_time_work", "name", "used", "weight",
    )

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.used = 0.0
        """Work sent, for its weight, on the clock of all lanes."""
        self.flows: dict[str, Flow[T]] = {}
        """Those with something in its turn."""
        self.in_time = 0
        """Those in their turn that can still make it, as far as was looked."""
        self.in_time_work = 0.0
        self.blocked_round = -1
        self.blocked_by = "nothing"

    @property
    def work(self) -> float:
        return sum(flow.work for flow in self.flows.values())


def class_key(item: Waiting, late: bool) -> ClassKey:
    if item.begun:
        return (_BEGUN, 0, False)
    return (_ORDINARY, -item.priority, late)


def is_late(entry: Entry[T], now: float) -> bool:
    """Whether its first token cannot be there in time any more."""
    item = entry.item
    return item.due is not None and not item.begun and now + entry.work > item.due
