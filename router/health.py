"""Which workers are asked for nothing because they are slower than they should be, or fail. Pure:
time is passed in.

    closed --outlier--> open --pause over--> half-open --good, PROBES times--> closed
                          ^                      |
                          +---- bad, the pause doubles

*Closed* is the good state, as of a circuit: requests flow. *Half-open* lets one request through at
a time and waits for what becomes of it.

A worker is an outlier against its pool (the workers of its role): when what it is given takes
OUTLIER times as long, against what was predicted, as at the median of the others; or when most of
it fails there, and not at the others. So what slows or fails everywhere opens nothing. Of a pool at
most half is held open at a time, the worst; the rest serve however they are.

What is systematic and known needs no circuit: a slow worker whose own curve says so is predicted to
be slow and chosen accordingly. This is for what predictions do not know.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

OUTLIER = 3.0
"""Times as slow as the others, against predictions."""
GOOD = 2.0
"""And so a probe may be at most."""
USUAL = 1.0
"""Actual over predicted, which the others count for at least: predictions may be too careful."""
GAIN = 0.3
"""Of a single observation, what is believed."""
LEAST = 4
"""Observations before a worker is judged."""
FAILING = 0.5
"""Share of failures from which a worker is an outlier, if that of the others is less than half."""
PAUSE, MOST_PAUSE = 1.0, 15.0
"""Seconds that a circuit stays open; doubles with each probe that was bad."""
PROBES = 2
FORGET = 30.0
"""Seconds after which an observation counts for nothing."""
_MOST_RATIO = 100.0

W = TypeVar("W", bound=Hashable)


@dataclass(slots=True)
class _State:
    slowness: float = 0.0
    """Mean of log(actual / predicted)."""
    failures: float = 0.0
    """Share."""
    seen: int = 0
    """Latencies."""
    tried: int = 0
    """Ends, good or bad."""
    at: float = -math.inf
    """Of the last observation."""
    open_until: float | None = None
    """None: closed. In the past: half-open."""
    pause: float = PAUSE
    probing: bool = False
    good: int = 0
    """Probes in a row."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is shown of one."""

    state: str
    """"closed", "open" or "half_open"."""
    slowness: float
    """Actual over predicted, on average."""
    failures: float
    """Share of what was tried."""
    why: str


class Health(Generic[W]):
    """`pools` of the methods: each worker that is there, and its role."""

    def __init__(self) -> None:
        self._states: dict[W, _State] = {}
        self._open: set[W] = set()
        """Those that are not closed."""

    # -- what is observed --------------------------------------------------------------------

    def latency(self, worker: W, ratio: float, pools: Mapping[W, str], now: float) -> None:
        """Something there took so many times as long as predicted."""
        state = self._state(worker, now)
        error = math.log(min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO))
        state.seen += 1
        state.slowness += max(GAIN, 1 / state.seen) * (error - state.slowness)
        self._tried(state, failed=False)
        bad = ratio > GOOD * self._usual(worker, pools, now)
        self._judge(worker, state, bad, pools, now)

    def worked(self, worker: W, pools: Mapping[W, str], now: float) -> None:
        """Something there went well; how fast is not known. Says little of one that is slow."""
        state = self._state(worker, now)
        self._tried(state, failed=False)
        if state.why != "slow":
            self._judge(worker, state, False, pools, now)

    def failed(self, worker: W, pools: Mapping[W, str], now: float) -> None:
        """Something there came to nothing."""
        state = self._state(worker, now)
        self._tried(state, failed=True)
        bad = self._usual_failures(worker, pools, now) < FAILING
        self._judge(worker, state, bad, pools, now)

    def overdue(self, worker: W, ratio: float, pools: Mapping[W, str], now: float) -> None:
        """Something there has taken so many times as long as predicted, and is not over. Counts
        when that is worse than what is known of it."""
        state = self._states.get(worker)
        if ratio > OUTLIER and (state is None or math.log(ratio) > state.slowness):
            self.latency(worker, ratio, pools, now)

    def sent(self, worker: W, now: float) -> None:
        """It got a request. A half-open one gets no other until it is known what became of it."""
        state = self._states.get(worker)
        if state is not None and state.open_until is not None and now >= state.open_until:
            state.probing = True

    def released(self, worker: W) -> None:
        """Nothing became of that request there, for reasons that say nothing of it."""
        state = self._states.get(worker)
        if state is not None:
            state.probing = False

    def gone(self, worker: W) -> None:
        """Idempotent."""
        self._states.pop(worker, None)
        self._open.discard(worker)

    # -- what follows ------------------------------------------------------------------------

    def avoided(self, pools: Mapping[W, str], now: float) -> set[W]:
        """Workers that get nothing now: never more than half of a pool."""
        if not self._open:
            return set()
        found: dict[str, list[tuple[float, W]]] = {}
        for worker in self._open:
            state = self._states[worker]
            if state.open_until is None or worker not in pools:
                continue
            if now < state.open_until or state.probing:
                badness = state.slowness + 10 * state.failures
                found.setdefault(pools[worker], []).append((badness, worker))
        avoided: set[W] = set()
        for pool, workers in found.items():
            most = sum(role == pool for role in pools.values()) // 2
            workers.sort(key=lambda entry: -entry[0])
            avoided.update(worker for _, worker in workers[:most])
        return avoided

    def to_probe(self, pools: Mapping[W, str], now: float) -> W | None:
        """A half-open one that waits for a request."""
        for worker in self._open:
            state = self._states[worker]
            due = state.open_until is not None and now >= state.open_until
            if due and not state.probing and worker in pools:
                return worker
        return None

    def reopens_at(self, worker: W) -> float | None:
        """When it is tried again. None: its circuit is closed."""
        state = self._states.get(worker)
        return None if state is None else state.open_until

    def circuits(self, now: float) -> dict[W, Circuit]:
        """Of all workers of which something is known."""
        return {worker: _shown(state, now) for worker, state in self._states.items()}

    # -- inside ------------------------------------------------------------------------------

    def _state(self, worker: W, now: float) -> _State:
        state = self._states.setdefault(worker, _State())
        if now - state.at > FORGET and state.open_until is None:
            state = self._states[worker] = _State()
        state.at = now
        return state

    def _tried(self, state: _State, *, failed: bool) -> None:
        state.tried += 1
        state.failures += max(GAIN, 1 / state.tried) * (failed - state.failures)
        if not failed and state.open_until is None:
            state.pause = max(PAUSE, 0.95 * state.pause)

    def _judge(
        self, worker: W, state: _State, bad: bool, pools: Mapping[W, str], now: float
    ) -> None:
        if state.open_until is None:
            why = self._outlier(worker, state, pools, now)
            if why:
                state.open_until, state.why = now + state.pause, why
                state.good, state.probing = 0, False
                self._open.add(worker)
            return
        if now < state.open_until:
            return  # of a request that it had before
        state.probing = False
        if bad:
            state.pause = min(MOST_PAUSE, 2 * state.pause)
            state.open_until, state.good = now + state.pause, 0
            return
        state.good += 1
        if state.good >= PROBES:
            self._states[worker] = _State(at=now, pause=state.pause)
            self._open.discard(worker)

    def _outlier(
        self, worker: W, state: _State, pools: Mapping[W, str], now: float
    ) -> str:
        """Why it is one; empty when it is none."""
        fails = state.tried >= LEAST and state.failures >= FAILING
        if fails and self._usual_failures(worker, pools, now) < state.failures / 2:
            return "failing"
        slow = math.exp(state.slowness) / OUTLIER if state.seen >= LEAST else 0.0
        if slow > min(1.0, USUAL) and slow > self._usual(worker, pools, now):
            return "slow"
        return ""

    def _usual(self, worker: W, pools: Mapping[W, str], now: float) -> float:
        """Actual over predicted at the others."""
        known = [peer.slowness for peer in self._peers(worker, pools, now) if peer.seen]
        return max(USUAL, math.exp(median(known))) if known else 1.0

    def _usual_failures(self, worker: W, pools: Mapping[W, str], now: float) -> float:
        """The share at the others."""
        known = [peer.failures for peer in self._peers(worker, pools, now) if peer.tried]
        return median(known) if known else 0.0

    def _peers(self, worker: W, pools: Mapping[W, str], now: float) -> Iterable[_State]:
        """The others of its pool of which something is known. Also those whose circuit is open, or
        the rest would be judged by ever fewer."""
        for other, state in self._states.items():
            same = pools.get(other) == pools.get(worker) and other != worker
            if same and now - state.at <= FORGET:
                yield state


def _shown(state: _State, now: float) -> Circuit:
    name = "closed"
    if state.open_until is not None:
        name = "open" if now < state.open_until else "half_open"
    return Circuit(name, math.exp(state.slowness), state.failures, state.why)
