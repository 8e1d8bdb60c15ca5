"""Clients that leave, in every state that a request can be in."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from dataclasses import replace

import aiohttp

from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import Verdict
from baton.bench.faults.load import Ask, Seen, client, one, stream

BURSTS = 5
"""Parts of the storm."""
SAMPLES = 4
"""Requests one after the other, before each part and right after it."""
TTFT_RATIO = 1.5


def cancels(ground: Ground, count: int) -> Verdict:
    """`count` cancels spread over all states; then a request has the TTFT that it had before, on
    an idle system, and no worker holds or quarantines a block."""
    verdict = Verdict(f"{count} cancels, then one request", in_flight=ground.concurrency)
    states: Counter[str] = Counter()
    idle: list[float] = []
    ratios: list[float] = []
    for burst in range(BURSTS):
        number = burst % len(ground.asks)
        before = _ttfts(ground, verdict, number)
        storm = _Storm(ground, count * (burst + 1) // BURSTS - count * burst // BURSTS)
        asyncio.run(storm.run())
        states += storm.states
        after = _ttfts(ground, verdict, number)
        idle.append(statistics.median(before))
        ratios.append(statistics.median(after) / idle[-1])
    verdict.notes["cancelled_while"] = dict(states)
    for state in ("unanswered", "at the first token", "decoding"):
        verdict.check(states[state] > 0, f"none was cancelled {state}")
    verdict.notes |= {
        "ttft_idle_median": round(statistics.median(idle), 4),
        "ttft_ratios": [round(ratio, 2) for ratio in ratios],
    }
    # Pairs of the same request, and their median: another program on the machine must not look
    # like something that the cancels left behind.
    ratio = statistics.median(ratios)
    if ratio > TTFT_RATIO:
        verdict.late.append(f"TTFT afterwards: {ratio:.2f} times that of an idle system")
    return ground.settle(verdict)


def _ttfts(ground: Ground, verdict: Verdict, number: int) -> list[float]:
    """Of this ask, from the moment that nothing is held any more; the first one to its end."""
    ground.settle(verdict)
    ask = ground.asks[number]
    first = one(ground.parts.url, ask, ground.salt())
    ground.oracle.judge(ground.parts.url, verdict, [first], first=number)
    short = replace(ask, max_tokens=2)
    rest = [one(ground.parts.url, short, ground.salt()) for _ in range(SAMPLES - 1)]
    return [seen.ttft for seen in (first, *rest)]


class _Storm:
    """Requests until so many were cancelled. `states` counts what the clients that left had seen:
    "unanswered" (queued, or its prompt being computed), "at the first token" (its KV on the way,
    as a rule), "decoding". What ends before its client leaves is no cancel."""

    def __init__(self, ground: Ground, count: int) -> None:
        self.states: Counter[str] = Counter()
        self._ground = ground
        self._count = count
        self._random = random.Random(ground.random.random())

    async def run(self) -> None:
        async with client(240.0) as session:
            await asyncio.gather(*(
                self._clients(session) for _ in range(self._ground.concurrency)
            ))

    async def _clients(self, session: aiohttp.ClientSession) -> None:
        """One after the other."""
        # What a request takes under this load. Half leave within the time that prefills take.
        seconds = self._ground.oracle.seconds / 2
        early = 2 * self._ground.oracle.ttft
        while self.states.total() < self._count:
            ask = self._random.choice(self._ground.asks)
            kind = self._random.random()
            if kind < 0.25:
                await self._leave_at_first_token(session, ask)
            else:
                await self._leave_after(
                    session, ask, self._random.uniform(0, early if kind < 0.65 else seconds)
                )

    async def _leave_after(
        self, session: aiohttp.ClientSession, ask: Ask, patience: float
    ) -> None:
        seen = Seen()
        try:
            async with asyncio.timeout(patience):
                await stream(session, self._ground.parts.url, ask.body(self._ground.salt()), seen)
        except TimeoutError:
            state = "decoding" if len(seen.times) > 1 else "at the first token"
            self.states[state if seen.times else "unanswered"] += 1

    async def _leave_at_first_token(self, session: aiohttp.ClientSession, ask: Ask) -> None:
        async with session.post(
            f"{self._ground.parts.url}/v1/completions", json=ask.body(self._ground.salt())
        ) as reply:
            async for raw in reply.content:
                if b"token_ids" in raw:
                    self.states["at the first token"] += 1
                    break
            reply.close()
