"""Operations under way, arranged so that looking for completed ones is cheap.

The binding has no completion callback, so completed requests have to be looked for, at 0.1 us a
look. Operations are kept in runs: the sends of one endpoint, and receives of consecutive tags
(one grant). A run completes in order nearly always, so `take_heads` looks at the head of each run
only; `take_all` looks at every operation and finds what completed out of order.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator

from baton.kvtransfer.transport import Operation
from baton.kvtransfer.ucx.binding import Request

Entry = tuple[Request, Operation]
Run = deque[Entry]


class Outstanding:
    """Owns the references that keep requests and, through them, buffers alive."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, Run] = {}
        self._receive_run: Run = deque()
        self._receive_next = -1
        self._receive_runs = itertools.count()
        self.count = 0

    def add_send(self, key: Hashable, request: Request, operation: Operation) -> None:
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = deque()
        run.append((request, operation))
        self.count += 1

    def add_receive(self, tag: int, request: Request, operation: Operation) -> None:
        run = self._receive_run
        # A run that was taken to its end is no longer among the runs, so it takes no more.
        if tag != self._receive_next or not run:
            run = self._receive_run = deque()
            self._runs["receives", next(self._receive_runs)] = run
        self._receive_next = tag + 1
        run.append((request, operation))
        self.count += 1

    def has(self, key: Hashable) -> bool:
        return key in self._runs

    def take_heads(self, finished: deque[Entry]) -> None:
        """Move completed operations from the heads of the runs to `finished`."""
        before = len(finished)
        empty = []
        for key, run in self._runs.items():
            while run and run[0][0].completed:
                finished.append(run.popleft())
            if not run:
                empty.append(key)
        for key in empty:
            del self._runs[key]
        self.count -= len(finished) - before

    def take_all(self, finished: deque[Entry]) -> None:
        """Move every completed operation to `finished`."""
        before = len(finished)
        for key, run in list(self._runs.items()):
            done = [entry for entry in run if entry[0].completed]
            if not done:
                continue
            finished.extend(done)
            # By identity: requests have no order and no cheap equality.
            gone = {id(entry) for entry in done}
            rest = [entry for entry in run if id(entry) not in gone]
            run.clear()
            run.extend(rest)
            if not run:
                del self._runs[key]
        self.count -= len(finished) - before

    def take_run(self, key: Hashable) -> list[Entry]:
        """Give up the run with this key, whether its operations completed or not."""
        run = list(self._runs.pop(key, ()))
        self.count -= len(run)
        return run

    def __iter__(self) -> Iterator[Entry]:
        for run in self._runs.values():
            yield from run
