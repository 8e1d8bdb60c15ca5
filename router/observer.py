"""What the router core reports as it happens; `RouterMetrics` counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from baton.protocol.records import Load, WorkerMetrics
from baton.router.flight import Flight


class Observer(Protocol):
    def decision(self, route: str, reason: str) -> None: ...

    def predicted(self, target: str, predicted: float, actual: float) -> None:
        """Of one attempt: its first token ("ttft", from its dispatch), or the mean of its tokens'
        intervals ("itl"), in seconds."""

    def retry(self, reason: str) -> None: ...

    def migration(self, outcome: str) -> None: ...

    def lender_named(self) -> None: ...

    def flight_finished(
        self, outcome: str, phases: Mapping[str, float] | None = None
    ) -> None: ...

    def queue_depth(self, stage: str, depth: int) -> None: ...

    def queued(self, stage: str, seconds: float) -> None: ...

    def worker_load(self, worker_id: str, load: Load) -> None: ...

    def worker_metrics(self, worker_id: str, record: WorkerMetrics) -> None: ...

    def worker_gone(self, worker_id: str) -> None: ...

    def worker_died(self, cause: str, silence: float) -> None:
        """A worker was lost and did not say good-bye: by what this was noticed, and so many
        seconds after its last word."""

    def redispatched(self, waited_for: str, seconds: float) -> None:
        """A request that a lost worker had is with others again, so long after the loss was
        noticed. `waited_for`: "nothing", or why it could not be sent at once."""

    def circuit(self, worker_id: str, is_open: bool, why: str) -> None:
        """A worker is not used for a while, for it is "slow" or "failing"; or it is again."""


class FlightWatcher(Protocol):
    """Hears of every choice: also of those that are refused at once, for they too are demand."""

    def arrived(self, flight: Flight) -> None: ...

    def ended(self, flight: Flight) -> None: ...


class NoObserver:
    """Listens to nothing."""

    def circuit(self, worker_id: str, is_open: bool, why: str) -> None: ...

    def worker_died(self, cause: str, silence: float) -> None: ...

    def redispatched(self, waited_for: str, seconds: float) -> None: ...

    def decision(self, route: str, reason: str) -> None: ...

    def predicted(self, target: str, predicted: float, actual: float) -> None: ...

    def retry(self, reason: str) -> None: ...

    def migration(self, outcome: str) -> None: ...

    def lender_named(self) -> None: ...

    def flight_finished(
        self, outcome: str, phases: Mapping[str, float] | None = None
    ) -> None: ...

    def queue_depth(self, stage: str, depth: int) -> None: ...

    def queued(self, stage: str, seconds: float) -> None: ...

    def worker_load(self, worker_id: str, load: Load) -> None: ...

    def worker_metrics(self, worker_id: str, record: WorkerMetrics) -> None: ...

    def worker_gone(self, worker_id: str) -> None: ...
