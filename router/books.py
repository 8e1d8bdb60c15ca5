"""From flights to accounts: what the router remembers of its requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from baton.protocol.ids import Identity
from baton.router.account import Account, Attempt, prefix_depths
from baton.router.flight import Dispatch, Flight
from baton.router.harmless import harmless
from baton.router.history import History
from baton.router.policy import Alternative
from baton.router.prediction import Prediction
from baton.router.window import LaneSummary

_PREDICTED = ("queue", "prefill", "exposed", "ttft", "itl", "itl_others", "harm")
_GOOD = ("stop", "length", "stop_string")
_REFUSED = ("queue_full", "overloaded", "no_worker", "shutting_down")
_NAME_BYTES = 8


class Books:
    """`names`: of the full blocks of a flight's prompt, and how many tokens a block has.
    `journal`: where each account goes that is complete."""

    def __init__(
        self,
        names: Callable[[Flight], tuple[list[bytes], int]],
        *,
        router: str = "",
        journal: Callable[[Account], None] | None = None,
    ) -> None:
        self.history = History(journal)
        self._names = names
        self._router = router

    @harmless
    def ended(self, flight: Flight, now: float) -> None:
        """It has its outcome; its decisions are still there."""
        self.history.ended(self._account(flight, now, self._prefix(flight)), now)

    def explain(
        self, response_id: str, running: Iterable[Flight], now: float
    ) -> list[Account]:
        """All choices of a response, those that run included; empty when nothing is known."""
        wanted = [f for f in running if f.key.request_id.startswith(response_id)]
        return self.history.of(response_id, [self._account(f, now, ((), 0)) for f in wanted])

    def lanes(self, now: float) -> dict[str, LaneSummary]:
        return self.history.lanes(now)

    def _prefix(self, flight: Flight) -> tuple[tuple[str, ...], int]:
        names, block_size = self._names(flight)
        if not names:
            return (), block_size
        depths = prefix_depths(len(names) * block_size, block_size)
        return tuple(names[depth - 1][:_NAME_BYTES].hex() for depth in depths), block_size

    def _account(
        self, flight: Flight, now: float, prefix: tuple[tuple[str, ...], int]
    ) -> Account:
        request, stamps = flight.request, flight.stamps
        arrived = stamps.arrived
        names, block_size = prefix
        return Account(
            id=flight.key.request_id,
            router=self._router,
            arrived=time.time() - (now - arrived),
            lane=flight.lane,
            priority=flight.priority,
            ttft_target=request.targets.ttft,
            itl_target=request.targets.itl,
            prompt_tokens=flight.prompt_tokens,
            cached_tokens=flight.cached_tokens,
            max_tokens=request.sampling.max_tokens,
            output_tokens=len(flight.accepted),
            prefix=names,
            block_size=block_size,
            attempts=tuple(_attempt(dispatch, arrived) for dispatch in flight.dispatches),
            queue=_since(stamps.dispatched, arrived),
            ttft=_since(stamps.first_token, arrived),
            itl=flight.mean_itl,
            e2e=_since(stamps.ended, arrived),
            phases=dict(flight.phases),
            outcome=_outcome(flight),
            finish=flight.outcome,
        )


def _outcome(flight: Flight) -> str:
    if flight.outcome is None:
        return "running"
    if flight.outcome in _GOOD:
        return "completed"
    if flight.outcome == "cancelled":
        return "cancelled"
    never_sent = not flight.dispatches and flight.stamps.first_token is None
    return "refused" if never_sent and flight.outcome in _REFUSED else "failed"


def _attempt(dispatch: Dispatch, arrived: float) -> Attempt:
    decision = dispatch.decision
    return Attempt(
        at=dispatch.at - arrived,
        route=decision.route,
        reason=decision.reason,
        prefill=_name(decision.prefill),
        decode=decision.decode.node_id,
        predicted=_predicted(decision.prediction),
        others=tuple(_other(way) for way in decision.alternatives),
    )


def _other(way: Alternative) -> dict[str, object]:
    return {
        "route": way.route,
        "prefill": _name(way.prefill),
        "decode": way.decode.node_id,
        "predicted": _predicted(way.prediction),
    }


def _predicted(prediction: Prediction | None) -> dict[str, float] | None:
    """None where the speeds of the workers are not known: seconds mean nothing then."""
    if prediction is None or not prediction.measured:
        return None
    return {name: getattr(prediction, name) for name in _PREDICTED}


def _name(identity: Identity | None) -> str | None:
    return None if identity is None else identity.node_id


def _since(at: float | None, start: float) -> float | None:
    return None if at is None else at - start
