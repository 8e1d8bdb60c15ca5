"""A router in a storm, as small as the protocol allows: it routes, retries, migrates and cancels,
takes only the next token of the current attempt, and compares it with the undisturbed output."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from fake_runner import undisturbed
from make_request import make_request

from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import (
    Admitted,
    Cancel,
    Declined,
    Generate,
    Lend,
    Migrate,
    Parked,
    Prefill,
    Record,
    Request,
    RequestFailed,
    Reserve,
    TokenBatch,
)

if TYPE_CHECKING:
    from storm_worker import Life

ROUTER = Identity("router", 1)
TRUNKS = ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9, 10], [11, 12])
MAX_ATTEMPTS = 4


class Flight:
    def __init__(self, name: str, prompt: list[int], max_tokens: int) -> None:
        self.name, self.prompt = name, prompt
        self.max_tokens = max_tokens
        self.wanted = undisturbed(prompt, max_tokens)
        self.tokens: list[int] = []
        self.attempt = 0
        self.end: str | None = None
        self.involved: set[Life] = set()
        self.decoder: Life | None = None
        self.migrating: Life | None = None
        self.before = 0
        """Tokens of earlier attempts."""
        self.early: list[tuple[int, tuple[int, ...], str | None]] = []

    @property
    def key(self) -> RequestKey:
        return RequestKey(self.name, self.attempt)

    def request(self, accepted: list[int] | None = None) -> Request:
        return make_request(
            self.name, self.prompt, max_tokens=self.max_tokens, attempt=self.attempt,
            accepted=self.tokens if accepted is None else accepted)


class StormRouter:
    """`lives`: by worker name, the life that the router knows."""

    def __init__(self, rng: Random, lives: dict[str, Life]) -> None:
        self.rng = rng
        self.lives = lives
        self.flights: dict[str, Flight] = {}

    @property
    def open(self) -> list[Flight]:
        return [flight for flight in self.flights.values() if flight.end is None]

    # -- what happens to requests ------------------------------------------------------------

    def begin(self) -> None:
        rng = self.rng
        prompt = [*rng.choice(TRUNKS), *(rng.randrange(20, 23) for _ in range(rng.randrange(4)))]
        flight = Flight(f"r{len(self.flights)}", prompt, rng.choice((1, 2, 4, 8)))
        self.flights[flight.name] = flight
        self.route(flight)

    def route(self, flight: Flight) -> None:
        rng = self.rng
        flight.attempt += 1
        flight.migrating = flight.decoder = None
        flight.early.clear()
        flight.before = len(flight.tokens)
        if len(flight.tokens) == flight.max_tokens:
            flight.end = "finished"
            return
        if flight.attempt > MAX_ATTEMPTS:
            flight.end = "gave up"
            return
        lives = list(self.lives.values())
        decoder = rng.choice(lives)
        others = [life for life in lives if life is not decoder]
        request = flight.request()
        if rng.random() < 0.3:
            flight.involved = {decoder}
            flight.decoder = decoder
            lender = rng.choice(others) if self._warm() and rng.random() < 0.8 else None
            ref = None if lender is None else lender.ref
            self.send(decoder, Generate(request=request, lender=ref))
            if lender is not None:
                self.send(lender, Lend(request=request, borrower=decoder.ref))
            return
        prefiller = rng.choice(others)
        flight.involved = {decoder, prefiller}
        lender = rng.choice([x for x in lives if x is not prefiller])
        lent = self._warm() and rng.random() < 0.6
        orders = [
            (decoder, Reserve(request=request, prefill=prefiller.ref)),
            (prefiller, Prefill(request=request, decode=decoder.ref,
                                lender=lender.ref if lent else None)),
        ]
        if lent:
            orders.append((lender, Lend(request=request, borrower=prefiller.ref)))
        rng.shuffle(orders)
        for life, record in orders:
            self.send(life, record)

    def cancel(self, flight: Flight) -> None:
        flight.end = "cancelled"
        self._cancel_everywhere(flight)

    def migrate(self, flight: Flight) -> None:
        source = flight.decoder
        assert source is not None
        target = self.rng.choice([x for x in self.lives.values() if x is not source])
        flight.migrating = target
        self.send(source, Migrate(key=flight.key, decode=target.ref))

    def learn_of_death(self, life: Life, successor: Life) -> None:
        self.lives[life.name] = successor
        for flight in self.open:
            if life in flight.involved:
                self._retry(flight)

    def send(self, life: Life, record: Record) -> None:
        if not life.dead:
            life.inbox.append(record)

    # -- what workers say --------------------------------------------------------------------

    def hear(self, life: Life, record: Record) -> None:
        if self.lives.get(life.name) is not life:
            return
        if isinstance(record, TokenBatch):
            for delta in record.deltas:
                flight = self._current(delta.key)
                if flight is not None:
                    self._take(flight, delta.position, delta.tokens, delta.finish_reason)
            return
        assert isinstance(record, Admitted | Declined | Parked | RequestFailed), record
        flight = self._current(record.key)
        if flight is None:
            return
        match record:
            case Admitted():
                flight.decoder = life
            case Declined():
                self._retry(flight)
            case RequestFailed():
                assert record.message == "storm", record
                flight.end = "failed"
                self._cancel_everywhere(flight)
            case Parked(parked=True):
                assert flight.migrating is not None
                assert life is flight.decoder
                flight.involved.add(flight.migrating)
                request = flight.request(flight.tokens[:-1])
                self.send(flight.migrating, Reserve(request=request, prefill=life.ref))
                flight.decoder = flight.migrating = None
            case Parked():
                flight.migrating = None

    def _warm(self) -> bool:
        """Somebody's cache may hold something."""
        return any(flight.end == "finished" for flight in self.flights.values())

    def _current(self, key: RequestKey) -> Flight | None:
        flight = self.flights[key.request_id]
        return flight if flight.end is None and flight.attempt == key.attempt else None

    def _take(
        self, flight: Flight, position: int, tokens: tuple[int, ...], reason: str | None
    ) -> None:
        if position < len(flight.tokens):
            return
        if position > len(flight.tokens):
            # The first token comes from another worker and may be overtaken.
            assert len(flight.tokens) == flight.before, f"{flight.name} has a gap"
            flight.early.append((position, tokens, reason))
            return
        flight.tokens += tokens
        right = flight.wanted[: len(flight.tokens)]
        assert flight.tokens == right, f"{flight.name}: {flight.tokens} is not {right}"
        if reason is not None:
            assert len(flight.tokens) == flight.max_tokens
            flight.end = "finished"
        early, flight.early = flight.early, []
        for delta in early:
            self._take(flight, *delta)

    def _retry(self, flight: Flight) -> None:
        self._cancel_everywhere(flight)
        self.route(flight)

    def _cancel_everywhere(self, flight: Flight) -> None:
        for life in sorted(flight.involved, key=lambda life: life.number):
            self.send(life, Cancel(key=flight.key, reason="storm"))
