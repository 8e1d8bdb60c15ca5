"""Relief between plans: a pool whose queue grows while the other one has time. Pure.

A plan believes in what arrived; relief believes in queues, which tell of what no curve foresaw. So
it asks for little (one worker, which does both from then on) and only when it is plain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from baton.router.planner.moves import Move, WorkerState
from baton.router.planner.workload import Workload

PATIENCE = 3.0
"""Seconds for which a queue must have grown or stood."""
LONG = 3.0
"""Seconds of work that make a queue."""
IDLE = 0.6
"""Of the sequences that its slots and their targets allow, what a decoding worker that has time
runs at most."""


class Relief:
    """`starving` watches; `move` says what would help then."""

    def __init__(self) -> None:
        self.reason = ""
        self._since: float | None = None
        self._low = 0.0
        self._phase = ""

    def reset(self) -> None:
        self._since = None

    def starving(self, workers: Sequence[WorkerState], queued: int, now: float) -> bool:
        phase, size = _pressure(workers, queued)
        if not phase:
            self._since = None
            return False
        if self._since is None or phase != self._phase or size < 0.8 * self._low:
            # It begins, or it drains.
            self._since, self._phase, self._low = now, phase, size
            return False
        return now - self._since >= PATIENCE

    def move(
        self, workers: Sequence[WorkerState], workload: Workload | None = None
    ) -> Move | None:
        """None when nobody has time. `workload`: as it was observed, if it is known."""
        if self._phase == "prefill":
            donors = [
                w for w in workers
                if w.role == "decode" and not w.pinned and _used(w, workload) < IDLE
            ]
            best = min(donors, key=lambda w: (_used(w, workload), w.name), default=None)
            self.reason = "prompts queue and do not drain, while decode workers have time"
        else:
            donors = [
                w for w in workers
                if w.role == "prefill" and not w.pinned and w.backlog < LONG / 3
            ]
            best = min(donors, key=lambda w: (w.backlog, w.name), default=None)
            self.reason = "answers find no room, while prefill workers have time"
        return None if best is None else Move(best.name, "mixed", best.role)


def _fullness(worker: WorkerState) -> float:
    return worker.decoding / max(1, worker.kind.max_running)


def _used(worker: WorkerState, workload: Workload | None) -> float:
    """Of what it could decode: with so many sequences that its steps take what their targets allow
    it is full, however many slots it has."""
    if workload is None:
        return _fullness(worker)
    curve = worker.kind.curve
    each = curve.decode + curve.context * workload.context
    if each <= 0 or not math.isfinite(workload.itl):
        return _fullness(worker)
    return max(_fullness(worker), worker.decoding * each / max(each, workload.itl - curve.base))


def _pressure(workers: Sequence[WorkerState], queued: int) -> tuple[str, float]:
    """(the phase that has a queue, how long it is), or nothing."""
    readers = [w for w in workers if w.role != "decode"]
    writers = [w for w in workers if w.role != "prefill"]
    backlog = sum(w.backlog for w in readers) / max(1, len(readers))
    full = bool(writers) and all(_fullness(w) >= 0.95 for w in writers)
    if full and queued > 0:
        return "decode", float(queued)
    if backlog >= LONG or queued > 2 * len(readers):
        return "prefill", backlog + queued
    return "", 0.0
