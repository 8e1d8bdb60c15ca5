"""Answers are read when there is time: one after the other with pauses, so that no time stamp waits
for more than one of them; at once where a next turn needs what was said."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from baton.bench.serve.events import Tokenize, answer_of
from baton.bench.serve.seen import DISCONNECTED, Seen

_PAUSE = 0.005
"""Seconds between two answers, of which one takes about a millisecond."""


@dataclass(slots=True)
class Packets:
    """A stream as it came."""

    times: list[float] = field(default_factory=list)
    """Since the request was sent."""
    data: list[bytes] = field(default_factory=list)


class Reader:
    """What has ended and was not read yet. A `Seen` is complete once it was read."""

    def __init__(self, tokenize: Tokenize | None = None) -> None:
        self._tokenize = tokenize
        self._unread: dict[int, tuple[Seen, Packets, str | None]] = {}
        self._some = asyncio.Event()

    def later(self, seen: Seen, packets: Packets, outcome: str | None = None) -> None:
        """`outcome`: what became of it, unless its packets say so."""
        self._unread[seen.number] = (seen, packets, outcome)
        self._some.set()

    def now(self, seen: Seen) -> None:
        """Nothing if it was read."""
        if seen.number in self._unread:
            _fill(*self._unread.pop(seen.number), self._tokenize)

    def all(self) -> None:
        for seen, _, _ in list(self._unread.values()):
            self.now(seen)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._some.wait()
            for seen, _, _ in list(self._unread.values())[:1]:
                self.now(seen)
            if not self._unread:
                self._some.clear()
            await asyncio.sleep(_PAUSE)


def _fill(seen: Seen, packets: Packets, outcome: str | None, tokenize: Tokenize | None) -> None:
    answer = answer_of(packets.times, packets.data, tokenize)
    seen.pieces, seen.counts = answer.pieces, answer.counts
    seen.ids, seen.text = answer.ids, answer.text
    seen.cached, seen.counted_by = answer.cached, answer.counted_by
    seen.prompt = answer.prompt or seen.prompt
    if answer.error is not None:
        seen.outcome, seen.detail = f"error {answer.error}", answer.detail
    elif outcome is not None:
        seen.outcome = outcome
    else:
        # A stream that just ends was cut, whoever did it.
        seen.outcome = answer.finish or DISCONNECTED
