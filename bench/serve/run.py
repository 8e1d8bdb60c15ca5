"""A load on a server, from its first request to its last.

    open loop     every request is sent when it is due, whatever became of others
    closed loop   so many clients, each sends its next request when it has its answer

A conversation's turn waits for the answer before it in both. In a closed loop each client has one
conversation at a time, and does not pause to think.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import chain, count
from typing import Any

import aiohttp

from baton.bench.serve.asking import Asking, Server, find, session
from baton.bench.serve.client import Cancels, Client
from baton.bench.serve.conversations import Conversations, Said, Turn, Write
from baton.bench.serve.events import Tokenize
from baton.bench.serve.lag import ClientLag, LagMeter
from baton.bench.serve.reading import Reader
from baton.bench.serve.seen import Seen
from baton.bench.serve.served import Served
from baton.bench.serve.server_side import Scrape, scrape
from baton.bench.workloads.arrival import Arrival

PATIENCE = 600.0
"""Seconds of a request."""
Watch = Callable[["Run"], None]
Made = tuple[bytes, Said]
"""A request's body, and what is said with it."""


async def serve(
    url: str,
    arrivals: Iterable[Arrival],
    *,
    model: str | None = None,
    warmup: float = 0.0,
    seconds: float | None = None,
    concurrency: int | None = None,
    asking: Asking | None = None,
    server: Server | None = None,
    write: Write | None = None,
    cancels: Cancels | None = None,
    patience: float = PATIENCE,
    drain: float | None = None,
    tokenize: Tokenize | None = None,
    stop: asyncio.Event | None = None,
    watch: Watch = lambda run: None,
) -> Served:
    """Sends `arrivals`, in the order of their times, and waits until all have ended.

    `concurrency`: a closed loop of so many clients; None: open. `warmup`: seconds whose requests do
    not count. `seconds`: that count after it; None: all that is left. `server`: from `find`, so
    that several runs look for it once. `write`: text for prompts, where the style is not ids.
    `drain`: seconds after the end of the load until what runs is ended as unfinished. `patience`:
    seconds that one request may take. `stop`:
    set, ends the run; what was measured is returned. `watch` is given the run when it begins.

    Raises ConfigError when the server cannot be asked, and nothing else: what fails is counted."""
    server = server or await find(url, asking or Asking(), model)
    async with session() as http:
        run = Run(http, server, warmup=warmup, seconds=seconds, concurrency=concurrency,
                  write=write, cancels=cancels, patience=patience, drain=drain, tokenize=tokenize)
        watch(run)
        return await run.through(arrivals, stop or asyncio.Event())


class Run:
    """One load. `seen` grows while it runs, for who watches."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        server: Server,
        *,
        warmup: float,
        seconds: float | None,
        concurrency: int | None,
        write: Write | None,
        cancels: Cancels | None,
        patience: float,
        drain: float | None,
        tokenize: Tokenize | None,
    ) -> None:
        self.seen: list[Seen] = []
        self.began = time.perf_counter()
        self.warmup = warmup
        self.until = math.inf if seconds is None else warmup + seconds
        """What is due then is not sent."""
        self.server = server
        self._http, self._concurrency, self._drain = http, concurrency, drain
        self._reader = Reader(tokenize)
        self._client = Client(
            http, server, reader=self._reader, patience=patience, cancels=cancels
        )
        self._talks = Conversations(server.asking.style, write, self._reader.now)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._numbers = count()

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self.began

    @property
    def open(self) -> int:
        """Requests that were sent and have not ended."""
        return sum(one.sent is not None and one.ended is None for one in self.seen)

    async def through(self, arrivals: Iterable[Arrival], stop: asyncio.Event) -> Served:
        stream = iter(arrivals)
        first = next(stream, None)
        # Made before the clock starts: a workload makes all its sessions when it is first asked.
        stream = chain(() if first is None else (first,), stream)
        with LagMeter() as meter:
            self.began = time.perf_counter()
            sending = asyncio.create_task(self._send_all(stream))
            scraping = asyncio.create_task(self._scrape_at(self.warmup))
            ending = asyncio.create_task(stop.wait())
            reading = asyncio.create_task(self._reader.run())
            await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
            await self._finish(sending, ending, reading)
            wall = self.now
            after = await scrape(self._http, self.server.url, self.server.asking.headers())
        self._reader.all()
        before = await scraping if scraping.done() else None
        scraping.cancel()
        for task in (sending, reading):
            if not task.cancelled():
                task.result()
        if self._failures:
            raise self._failures[0]
        self.seen.sort(key=lambda one: one.due)
        return Served(
            requests=self.seen,
            warmup=self.warmup,
            end=self._end(stop.is_set(), wall),
            wall=wall,
            client=ClientLag(
                meter.since(self.began + self.warmup),
                [lag for one in self.seen
                 if one.due >= self.warmup and (lag := one.send_lag) is not None],
                meter.cpu,
            ),
            server=self.server,
            scrapes=(before, after),
            stopped=stop.is_set(),
            concurrency=self._concurrency,
        )

    def _end(self, stopped: bool, wall: float) -> float:
        """Until when it counts. An open load without a stated end has it when the last was due,
        that one included: so many came in that time. A closed one when its last answer is here."""
        if stopped or self._concurrency is not None:
            return min(self.until, wall)
        if self.until != math.inf:
            return self.until
        last = max((one.due for one in self.seen), default=0.0)
        return math.nextafter(last, math.inf) if last > self.warmup else wall

    # -- sending -----------------------------------------------------------------------------

    async def _send_all(self, stream: Iterator[Arrival]) -> None:
        """Returns when all were sent and have ended."""
        if self._concurrency is not None:
            await self._closed(stream)
            return
        for arrival in stream:
            if arrival.at >= self.until:
                break
            turn = self._talks.begin(arrival)
            seen = self._expect(arrival, arrival.at)
            body = None
            if turn.ready:
                # Ready before it is due, so that making it delays nothing.
                body = await self._make(turn, seen)
            await self._sleep_until(arrival.at)
            self._spawn(self._one(turn, seen, body))
            del body
        await self._all_ended()

    async def _closed(self, stream: Iterator[Arrival]) -> None:
        waiting = _sessions(stream)
        assert self._concurrency is not None

        async def client() -> None:
            for conversation in waiting:
                for arrival in conversation:
                    if self.now >= self.until:
                        return
                    turn = self._talks.begin(arrival)
                    seen = self._expect(arrival, self.now)
                    body = await self._make(turn, seen)
                    seen.due = self.now
                    await self._one(turn, seen, body)

        for _ in range(self._concurrency):
            self._spawn(client())
        await self._all_ended()

    async def _one(self, turn: Turn, seen: Seen, body: Made | None) -> None:
        said = None
        try:
            if body is None:
                seen.held = True
                body = await self._make(turn, seen)
            data, said = body
            await self._client.ask(seen, turn.arrival, data, self.began)
        finally:
            self._talks.ended(turn, said, seen)

    async def _make(self, turn: Turn, seen: Seen) -> Made:
        prompt, seen.prompt, said = await self._talks.prompt(turn)
        return self.server.asking.body(self.server.model, prompt, turn.arrival), said

    def _expect(self, arrival: Arrival, due: float) -> Seen:
        seen = Seen(next(self._numbers), arrival.kind, arrival.session, arrival.lane,
                    arrival.targets, due, 0, arrival.length)
        self.seen.append(seen)
        return seen

    async def _sleep_until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.now))

    # -- ending ------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _all_ended(self) -> None:
        left = None
        if self._drain is not None and self._concurrency is None:
            left = self._drain
        elif self._drain is not None:
            left = self.until + self._drain - self.now
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=left)

    async def _finish(self, *others: asyncio.Task[Any]) -> None:
        """What still runs is ended as unfinished."""
        left = {*others, *self._tasks}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _scrape_at(self, at: float) -> Scrape | None:
        await self._sleep_until(at)
        return await scrape(self._http, self.server.url, self.server.asking.headers())


def _sessions(stream: Iterator[Arrival]) -> Iterator[list[Arrival]]:
    """Conversations in the order of their first turns, whole; a request of none is its own."""
    found: dict[str, list[Arrival]] = {}
    for number, arrival in enumerate(stream):
        found.setdefault(arrival.session or f" {number}", []).append(arrival)
    return iter(list(found.values()))
