"""One choice of one request on its way through the workers.

    waiting --dispatched--> flying --finish/cancel/error--> ended
       ^                      |
       +------ attempt + 1 ---+   declined, worker lost, tokens out of order

The dispatcher moves it; the HTTP layer reads `events()` and may `cancel` or `finish_early`. Tokens
reach the reader once and in order, over all attempts: only the next position of the current
attempt is accepted. In a remote route the first token comes from the prefill worker and the rest
from the decode worker, on two connections, so later ones may have to wait for the first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Request, TokenDelta
from baton.protocol.tokens import pack_tokens, unpack_tokens
from baton.router.candidates import is_patient
from baton.router.policy import Decision

MAX_EARLY = 1024
"""Deltas that may wait for the first token."""
FLIGHT_BYTES = 4096
"""Of a flight and its HTTP request, beside the prompt."""


class Taken(Enum):
    """What became of a delta."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    FINISHED = "finished"
    OUT_OF_ORDER = "out_of_order"


ACCEPTED = Taken.ACCEPTED
"""For who asks of every token: members of an Enum are slow to look up."""


@dataclass(slots=True)
class Dispatch:
    """One attempt on its way: what was decided and when, and what came of it. Seconds on the
    loop's clock."""

    decision: Decision
    at: float
    first_token: float | None = None
    """Of this attempt."""
    second_token: float | None = None
    last_token: float | None = None
    tokens: int = 0
    tokens_then: float = 0.0
    """The decoding worker's `tokens_by` at the first token."""
    over: bool = False

    @property
    def ttft(self) -> float | None:
        """From the decision to the first token."""
        return None if self.first_token is None else self.first_token - self.at

    @property
    def itl(self) -> float | None:
        """Between tokens, on average. None for fewer than two."""
        if self.first_token is None or self.last_token is None or self.tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.tokens - 1)


@dataclass(slots=True)
class Stamps:
    """Seconds on the loop's clock; every latency is derived from these."""

    arrived: float
    dispatched: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None


@dataclass(slots=True)
class Trouble:
    """What went wrong so far."""

    lost_workers: dict[Identity, int] = field(default_factory=dict)
    """Workers that died with it, and how far each death can be its fault (`Worker.blame`)."""
    lost_at: float | None = None
    """When the loss of a worker that held it was noticed, until it is sent again."""
    waited_for: str = "nothing"
    """What kept it from being sent again at once."""
    recompute: bool = False
    """What was computed of it was lost with a worker."""
    declines: int = 0
    excluded_until: dict[Identity, float] = field(default_factory=dict)
    was_running: bool = False


class Flight:
    """`on_end(flight, outcome)` is called when the reader ends it."""

    def __init__(
        self,
        request: Request,
        number: int,
        now: float,
        on_end: Callable[[Flight, str, str], None],
    ) -> None:
        self.request = request
        """The record of the current attempt, with the accepted tokens."""
        self._prompt_tokens = len(request.prompt) // 4
        self.number = number
        """Order of arrival."""
        self.flow = ""
        """Whose it is: those of a lane share it fairly, whatever each has queued."""
        ttft = request.targets.ttft
        self.due = None if ttft is None else now + ttft
        """When its first token should be there."""
        self.patience: float | None = None
        """Seconds after its arrival for which a first token is worth having. None: no limit."""
        self.work = 0.0
        """Predicted seconds of its prefill, since it waits."""
        self.accepted: list[int] = unpack_tokens(request.accepted)
        self.cached_tokens: int | None = None
        """Of the prompt, by the first attempt that computed it."""
        self.stamps = Stamps(now)
        self.phases: dict[str, float] = {}
        """Seconds per phase, as workers reported them."""
        self.trouble = Trouble()
        self.decision: Decision | None = None
        self.dispatches: list[Dispatch] = []
        """All attempts that were sent, the last one last."""
        self.affinity = ""
        """What the client said that it belongs to: workers are kept for it, when it costs
        nothing."""
        self.holders: dict[Identity, str] = {}
        """Workers that may hold something of the current attempt, and as what: "prefill",
        "decode" or "local"."""
        self.admitted = False
        self.prefilled = False
        """The current attempt has brought its first token."""
        self.finish_reason: str | None = None
        self.outcome: str | None = None
        """How it ended: a finish reason, "stop_string", "cancelled", or an error's code."""
        self.error: BatonError | None = None
        self.timer: asyncio.TimerHandle | None = None
        """The dispatcher's, for the next deadline."""
        self.starved_since: float | None = None
        """Since when no worker has been there to wait for."""
        self._on_end = on_end
        self._early: dict[int, TokenDelta] = {}
        self._ready: deque[TokenDelta] = deque()
        self._changed = asyncio.Event()

    @property
    def key(self) -> RequestKey:
        return self.request.key

    @property
    def lane(self) -> str:
        return self.request.lane

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def begun(self) -> bool:
        """It ran, and what was computed of it is lost, or tokens of it are out: it goes first."""
        return self.trouble.recompute or bool(self.accepted)

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def mean_itl(self) -> float | None:
        """Seconds between the client's tokens so far. None for fewer than two."""
        first, last = self.stamps.first_token, self.stamps.last_token
        if first is None or last is None or len(self.accepted) < 2:
            return None
        return (last - first) / (len(self.accepted) - 1)

    @property
    def gives_way(self) -> bool:
        """Whether its prompt lets others pass: when its first token comes says nothing of its
        worker then."""
        return is_patient(self.request.targets.ttft)

    @property
    def num_tokens(self) -> int:
        """Prompt and output so far."""
        return self._prompt_tokens + len(self.accepted)

    @property
    def num_bytes(self) -> int:
        """Of memory that it takes here, about."""
        return len(self.request.prompt) + FLIGHT_BYTES

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    # -- the reader's side -------------------------------------------------------------------

    async def events(self) -> AsyncIterator[TokenDelta]:
        """Tokens in order, each position once. Ends after a delta with a finish reason (or
        after `cancel`); raises BatonError when the request failed for good."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self.error is not None:
                raise self.error
            if self.ended:
                return
            self._changed.clear()
            await self._changed.wait()

    def cancel(self, reason: str) -> None:
        """Nobody wants the rest: everything is freed everywhere. Returns at once. Idempotent."""
        if not self.ended:
            self._on_end(self, "cancelled", reason)

    def finish_early(self) -> None:
        """As `cancel`, but the request is complete: a stop string matched."""
        if not self.ended:
            self._on_end(self, "stop_string", "complete")

    # -- the dispatcher's side ---------------------------------------------------------------

    def take(self, delta: TokenDelta, now: float) -> Taken:
        """Accept a delta if it is the next of the current attempt."""
        if self.outcome is not None or delta.key != self.request.key:
            return Taken.IGNORED
        position = len(self.accepted)
        if delta.position != position:
            if delta.position + len(delta.tokens) <= position:
                return Taken.IGNORED
            waits_for_first = not self.prefilled and "prefill" in self.holders.values()
            if delta.position > position and waits_for_first and len(self._early) < MAX_EARLY:
                self._early[delta.position] = delta
                return Taken.ACCEPTED
            return Taken.OUT_OF_ORDER
        taken = self._accept(delta, now)
        while self._early and taken is ACCEPTED:
            early = self._early.pop(len(self.accepted), None)
            if early is None:
                break
            taken = self._accept(early, now)
        return taken

    def _accept(self, delta: TokenDelta, now: float) -> Taken:
        # Once for every token of everybody: each call that is not made counts.
        if delta.cached_tokens is not None or delta.prompt_logprobs:
            if self.accepted:
                # A later attempt found its prompt again; the reader has had all about that.
                delta = msgspec.structs.replace(delta, prompt_logprobs=None, cached_tokens=None)
            elif delta.cached_tokens is not None:
                self.cached_tokens = delta.cached_tokens
        tokens, reason = delta.tokens, delta.finish_reason
        self.accepted.extend(tokens)
        self.prefilled = True
        self.finish_reason = reason
        if delta.phases:
            self.add_phases(delta.phases)
        if tokens:
            stamps = self.stamps
            if stamps.first_token is None:
                stamps.first_token = now
            stamps.last_token = now
            if self.dispatches:
                dispatch = self.dispatches[-1]
                if dispatch.first_token is None:
                    dispatch.first_token = now
                elif dispatch.second_token is None:
                    dispatch.second_token = now
                dispatch.last_token = now
                dispatch.tokens += len(tokens)
        self._ready.append(delta)
        self._changed.set()
        return ACCEPTED if reason is None else Taken.FINISHED

    def add_phases(self, phases: dict[str, float] | None) -> None:
        for phase, seconds in (phases or {}).items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def next_attempt(self) -> None:
        """From here on, words about the attempts before are ignored."""
        self._early.clear()
        self.holders.clear()
        self.admitted = self.prefilled = False
        self.decision = None
        sampling = self.request.sampling
        if self.accepted and sampling.prompt_logprobs is not None:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
        self.request = msgspec.structs.replace(
            self.request,
            key=RequestKey(self.key.request_id, self.key.attempt + 1),
            accepted=pack_tokens(self.accepted),
            sampling=sampling,
        )

    def end(self, outcome: str, now: float, error: BatonError | None = None) -> None:
        """The last transition. What was accepted before can still be read."""
        self.outcome = outcome
        self.error = error
        self.stamps.ended = now
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._early.clear()
        self._changed.set()

    def excluded(self, now: float) -> set[Identity]:
        """Workers that declined it a moment ago."""
        return {worker for worker, until in self.trouble.excluded_until.items() if until > now}

    @property
    def impatient_at(self) -> float | None:
        """When it is not worth sending any more. None: it was sent, or always is."""
        if self.patience is None or self.stamps.dispatched is not None:
            return None
        return self.stamps.arrived + self.patience - min(self.work, self.patience / 2)

    def deadline(self) -> tuple[float, str]:
        """When it fails unless something happens, and what the error says."""
        limits = self.request.deadlines
        if self.stamps.last_token is None:
            at, text = self.stamps.arrived + limits.first_token, (
                f"no first token within {limits.first_token:g} s"
            )
        else:
            at, text = self.stamps.last_token + limits.between_tokens, (
                f"no further token within {limits.between_tokens:g} s"
            )
        if limits.total is not None and self.stamps.arrived + limits.total < at:
            return self.stamps.arrived + limits.total, f"not complete within {limits.total:g} s"
        return at, text
