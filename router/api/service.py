"""What the HTTP layer needs of the rest of the router: somewhere to send a choice, and its
tokens back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from baton.protocol.records import ModelCard, Request, TokenDelta
from baton.router.lanes import Lanes
from baton.router.policy import Decision


class Flight(Protocol):
    """One choice of one request on its way through the workers. It ends when `events` ends, or
    with `cancel` or `finish_early`; all three are idempotent."""

    @property
    def decision(self) -> Decision | None:
        """Where it runs now, and why; None while it waits."""
        ...

    def events(self) -> AsyncIterator[TokenDelta]:
        """Tokens in order, each position once. Ends after a delta with a finish reason; raises
        BatonError when the request failed for good."""
        ...

    def cancel(self, reason: str) -> None:
        """Nobody wants the rest: free everything everywhere. Returns at once."""
        ...

    def finish_early(self) -> None:
        """As `cancel`, but the request is complete: a stop string matched."""
        ...


class Service(Protocol):
    @property
    def ready(self) -> bool:
        """Whether some worker takes requests now."""
        ...

    @property
    def model(self) -> ModelCard | None:
        """None until the first worker has joined."""
        ...

    @property
    def max_choices(self) -> int:
        """That one HTTP request may ask for: more would be refused however often it comes."""
        ...

    @property
    def lanes(self) -> Lanes:
        """That a request may choose from."""
        ...

    def submit(self, request: Request, *, session: str = "") -> Flight:
        """Accept one choice. `session`: what it belongs to, if the client said. Raises BatonError:
        queue_full or overloaded with `retry_after`, no_worker, ..."""
        ...

    def worker_views(self) -> Sequence[Any]:
        """One dataclass or record per known worker, for people and tools to read."""
        ...

    def explain(self, response_id: str) -> Sequence[Any]:
        """The accounts of all its choices. Raises BatonError(not_found)."""
        ...

    def latest(self, limit: int) -> Sequence[Any]:
        """The accounts of the choices that ended last, latest first."""
        ...

    def overview(self) -> Any:
        """One record of how things stand."""
        ...

    def drain(self, worker_id: str, *, undo: bool = False) -> Any:
        """Begin to empty a worker, or to use it again. Returns at once, with its view. Raises
        BatonError(not_found)."""
        ...


class Pools(Protocol):
    """Who has which role, and why."""

    def set_role(self, worker_id: str, role: str) -> None:
        """A person's choice, "auto" to take it back. Raises BatonError (not_found,
        invalid_value)."""
        ...

    def view(self, now: float) -> dict[str, object]:
        """For people and tools."""
        ...
