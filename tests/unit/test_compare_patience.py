"""A load that is ended when it is certain that it will not attain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from baton.bench.compare import patience
from baton.bench.compare.patience import Client, allowed, misses
from baton.bench.serve.asking import Asking
from baton.bench.serve.seen import Seen
from baton.bench.workloads.arrival import Arrival
from baton.protocol.records import Targets
from baton.protocol.tokens import pack_tokens

TARGETS = Targets(ttft=0.5, itl=0.1)


def seen(ttft: float | None, gap: float = 0.01, *, sent: float = 0.0, asked: int = 5) -> Seen:
    pieces = [] if ttft is None else [ttft + n * gap for n in range(asked)]
    return Seen(0, "", "", "", TARGETS, sent, 4, asked, sent=sent, pieces=pieces,
                counts=[1] * len(pieces), outcome="length" if pieces else "unfinished",
                ended=sent + pieces[-1] if pieces else None)


def test_who_ended_in_time_or_may_yet_has_not_missed() -> None:
    assert misses([seen(0.4), seen(0.4, 0.09), seen(None)], now=0.8) == 0
    unsent = Seen(0, "", "", "", TARGETS, 0.0, 4, 5)
    assert misses([unsent], now=99.0) == 0, "it waits for the turn before it"


def test_who_ended_late_or_should_be_over_has() -> None:
    refused = seen(0.1)
    refused.outcome = "refused"
    assert misses([seen(0.6), seen(0.1, 0.11), refused], now=2.0) == 3
    # 0.5 + 4 * 0.1 s after it was sent.
    assert misses([seen(None, sent=1.0)], now=1.89) == 0
    assert misses([seen(None, sent=1.0)], now=1.91) == 1


def test_an_answer_that_was_not_read_yet_is_no_miss() -> None:
    """Many may end at once, and they are read one after the other."""
    unread = seen(None)
    unread.ended = 0.4
    assert misses([unread], now=99.0) == 0


def test_an_end_to_end_target_is_missed_when_it_is_over() -> None:
    done = seen(0.1, 0.1)  # the last token after 0.5 s
    assert (misses([done], 2.0), misses([done], 2.0, 0.6), misses([done], 2.0, 0.4)) == (0, 0, 1)
    assert misses([seen(None)], 0.31, 0.3) == 1
    assert misses([seen(None)], 0.29, 0.3) == 0
    assert misses([seen(None)], 0.91, 5.0) == 1, "the other targets are as they were"


def test_so_many_may_miss_that_the_wanted_share_is_left() -> None:
    wanted = [(20, 0.9, 2), (19, 0.9, 1), (100, 0.55, 45), (7, 0.99, 0), (5, 0.0, 5)]
    assert [allowed(expected, share) for expected, share, _ in wanted] == [n for *_, n in wanted]


@asynccontextmanager
async def server(seconds: float) -> AsyncIterator[str]:
    """Answers with two tokens, after so long."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        event = {"choices": [{"text": "ab", "token_ids": [7, 8], "finish_reason": "length"}]}
        await response.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())
        return response

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", answer)
    running = TestServer(app)
    await running.start_server()
    try:
        yield str(running.make_url("")).rstrip("/")
    finally:
        await running.close()


def arrivals(ttft: float, pause: float = 0.0) -> list[Arrival]:
    """Ten, and ten more after a pause."""
    return [
        Arrival(n / 50 + pause * (n >= 10), lambda: pack_tokens([5, 6]), 2, 2, n,
                targets=Targets(ttft=ttft, itl=1000.0))
        for n in range(20)
    ]


async def test_a_load_that_may_attain_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.02)
    async with server(0.1) as url:
        served = await Client(Asking())(
            url, arrivals(1000.0), model="m", warmup=0.0, seconds=1.0, give_up=0.9
        )
    assert len(served.counted) == 20
    assert not served.stopped


async def test_a_load_ends_early_where_all_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.02)
    async with server(0.1) as url:
        served = await Client(Asking())(
            url, arrivals(0.05, 1000.0), model="m", warmup=0.0, seconds=2000.0, give_up=0.9
        )
    assert served.stopped
    assert 2 < len(served.counted) <= 10
    assert sum(one.attained() for one in served.counted) / len(served.counted) < 0.9


async def test_without_a_wish_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.02)
    async with server(0.1) as url:
        served = await Client(Asking())(url, arrivals(0.05), model="m", warmup=0.0, seconds=1.0)
    assert len(served.counted) == 20
    assert not served.stopped
